"""Every name of Dassl's public interface is where the field imports it, with its parameters."""

import importlib
import inspect

import pytest
from dassl.config import clean_cfg, get_cfg_default
from dassl.utils import Registry, check_availability

SIGNATURES = {
    "dassl.config:get_cfg_default": "",
    "dassl.config:clean_cfg": "cfg, trainer",
    "dassl.data:DataManager": "cfg, custom_tfm_train=None, custom_tfm_test=None, "
    "dataset_wrapper=None",
    "dassl.data:DatasetWrapper": "cfg, data_source, transform=None, is_train=False",
    "dassl.data.data_manager:DatasetWrapper": "cfg, data_source, transform=None, is_train=False",
    "dassl.data.data_manager:build_data_loader": "cfg, sampler_type='SequentialSampler', "
    "data_source=None, batch_size=64, n_domain=0, n_ins=2, tfm=None, is_train=True, "
    "dataset_wrapper=None",
    "dassl.data.datasets:Datum": "impath='', label=0, domain=0, classname=''",
    "dassl.data.datasets:DatasetBase": "train_x=None, train_u=None, val=None, test=None",
    "dassl.data.datasets:build_dataset": "cfg",
    "dassl.data.datasets.base_dataset:Datum": "impath='', label=0, domain=0, classname=''",
    "dassl.data.datasets.build:build_dataset": "cfg",
    "dassl.data.samplers:build_sampler": "sampler_type, cfg=None, data_source=None, "
    "batch_size=32, n_domain=0, n_ins=16",
    "dassl.data.transforms:build_transform": "cfg, is_train=True, choices=None",
    "dassl.data.transforms.transforms:build_transform": "cfg, is_train=True, choices=None",
    "dassl.engine:build_trainer": "cfg",
    "dassl.engine.build:build_trainer": "cfg",
    "dassl.engine:SimpleNet": "cfg, model_cfg, num_classes, **kwargs",
    "dassl.engine:TrainerBase": "",
    "dassl.engine:SimpleTrainer": "cfg",
    "dassl.engine:TrainerX": "cfg",
    "dassl.engine:TrainerXU": "cfg",
    "dassl.evaluation:build_evaluator": "cfg, **kwargs",
    "dassl.evaluation:EvaluatorBase": "cfg",
    "dassl.evaluation:Classification": "cfg, lab2cname=None, **kwargs",
    "dassl.metrics:compute_accuracy": "output, target, topk=(1,)",
    "dassl.modeling:build_backbone": "name, verbose=True, **kwargs",
    "dassl.modeling:build_head": "name, verbose=True, **kwargs",
    "dassl.modeling:build_network": "name, verbose=True, **kwargs",
    "dassl.optim:build_optimizer": "model, optim_cfg, param_groups=None",
    "dassl.optim:build_lr_scheduler": "optimizer, optim_cfg",
    "dassl.optim.lr_scheduler:build_lr_scheduler": "optimizer, optim_cfg",
    "dassl.optim.optimizer:build_optimizer": "model, optim_cfg, param_groups=None",
    "dassl.optim.radam:RAdam": "params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, "
    "weight_decay=0, degenerated_to_sgd=True",
    "dassl.utils:AverageMeter": "ema=False",
    "dassl.utils:MetricMeter": "delimiter=' '",
    "dassl.utils:Registry": "name",
    "dassl.utils:check_availability": "requested, available",
    "dassl.utils:check_isfile": "fpath",
    "dassl.utils:collect_env_info": "",
    "dassl.utils:count_num_param": "model=None, params=None",
    "dassl.utils:download_url": "url, dst",
    "dassl.utils:get_most_similar_str_to_a_from_b": "a, b",
    "dassl.utils:init_network_weights": "model, init_type='normal', gain=0.02",
    "dassl.utils:listdir_nohidden": "path, sort=False",
    "dassl.utils:load_checkpoint": "fpath",
    "dassl.utils:load_pretrained_weights": "model, weight_path",
    "dassl.utils:mkdir_if_missing": "dirname",
    "dassl.utils:open_all_layers": "model",
    "dassl.utils:open_specified_layers": "model, open_layers",
    "dassl.utils:read_image": "path",
    "dassl.utils:read_json": "fpath",
    "dassl.utils:resume_from_checkpoint": "fdir, model, optimizer=None, scheduler=None",
    "dassl.utils:save_checkpoint": "state, save_dir, is_best=False, "
    "remove_module_from_keys=True, model_name=''",
    "dassl.utils:set_random_seed": "seed",
    "dassl.utils:setup_logger": "output=None",
    "dassl.utils:tolist_if_not": "x",
    "dassl.utils:write_json": "obj, fpath",
    "dassl.utils.logger:setup_logger": "output=None",
    "dassl.utils.meters:AverageMeter": "ema=False",
    "dassl.utils.registry:Registry": "name",
    "dassl.utils.tools:mkdir_if_missing": "dirname",
    "dassl.utils.torchtools:load_checkpoint": "fpath",
}

METHODS = {
    "register_model": "name='model', model=None, optim=None, sched=None",
    "get_model_names": "names=None",
    "save_model": "epoch, directory, is_best=False, val_result=None, model_name=''",
    "resume_model_if_exist": "directory",
    "load_model": "directory, epoch=None",
    "set_model_mode": "mode='train', names=None",
    "update_lr": "names=None",
    "detect_anomaly": "loss",
    "init_writer": "log_dir",
    "close_writer": "",
    "write_scalar": "tag, scalar_value, global_step=None",
    "train": "",
    "before_train": "",
    "after_train": "",
    "before_epoch": "",
    "after_epoch": "",
    "run_epoch": "",
    "test": "split=None",
    "check_cfg": "cfg",
    "build_data_loader": "",
    "build_model": "",
    "model_inference": "input",
    "parse_batch_test": "batch",
    "parse_batch_train": "batch",
    "model_zero_grad": "names=None",
    "model_backward": "loss",
    "model_update": "names=None",
    "model_backward_and_update": "loss, names=None",
    "get_current_lr": "names=None",
}

NAMES = [
    "dassl.data.datasets:DATASET_REGISTRY",
    "dassl.data.transforms:INTERPOLATION_MODES",
    "dassl.engine:TRAINER_REGISTRY",
    "dassl.engine.build:TRAINER_REGISTRY",
    "dassl.engine.trainer:TrainerX",
    "dassl.engine.trainer:MetricMeter",
    "dassl.engine.trainer:AverageMeter",
    "dassl.engine.trainer:SummaryWriter",
    "dassl.evaluation:EVALUATOR_REGISTRY",
    "dassl.modeling:BACKBONE_REGISTRY",
    "dassl.modeling:Backbone",
    "dassl.modeling:HEAD_REGISTRY",
    "dassl.modeling:NETWORK_REGISTRY",
]


def look_up(address):
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


def parameters(function):
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(plain))[1:-1]


@pytest.mark.parametrize("address", SIGNATURES)
def test_parameters(address):
    assert parameters(look_up(address)) == SIGNATURES[address]


@pytest.mark.parametrize("method", METHODS)
def test_trainer_methods(method):
    assert parameters(getattr(look_up("dassl.engine:TrainerX"), method)) == METHODS[method]


@pytest.mark.parametrize("address", NAMES)
def test_names(address):
    look_up(address)


def test_version_is_dassls():
    import dassl

    assert dassl.__version__.split("+")[0] == "0.6.3"


def test_defaults():
    cfg = get_cfg_default()
    values = {
        "SEED": -1,
        "USE_CUDA": True,
        "VERBOSE": True,
        "OUTPUT_DIR": "./output",
        "INPUT.SIZE": (224, 224),
        "INPUT.TRANSFORMS": (),
        "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406],
        "DATASET.NUM_SHOTS": -1,
        "DATALOADER.NUM_WORKERS": 4,
        "DATALOADER.TRAIN_X.SAMPLER": "RandomSampler",
        "DATALOADER.TRAIN_X.BATCH_SIZE": 32,
        "OPTIM.NAME": "adam",
        "OPTIM.LR": 0.0003,
        "OPTIM.WEIGHT_DECAY": 5e-4,
        "OPTIM.MOMENTUM": 0.9,
        "OPTIM.LR_SCHEDULER": "single_step",
        "OPTIM.STEPSIZE": (-1,),
        "OPTIM.MAX_EPOCH": 10,
        "OPTIM.WARMUP_EPOCH": -1,
        "OPTIM.WARMUP_TYPE": "linear",
        "OPTIM.WARMUP_RECOUNT": True,
        "TRAIN.PRINT_FREQ": 10,
        "TRAIN.CHECKPOINT_FREQ": 0,
        "TEST.SPLIT": "test",
        "TEST.FINAL_MODEL": "last_step",
        "TRAINER.NAME": "",
    }
    for key, value in values.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert node == value, key


def test_every_call_gives_a_fresh_tree():
    first = get_cfg_default()
    first.INPUT.PIXEL_MEAN.append(0.0)
    first.OPTIM.LR = 1.0
    assert get_cfg_default().OPTIM.LR == 0.0003
    assert len(get_cfg_default().INPUT.PIXEL_MEAN) == 3


def test_yacs_semantics(tmp_path):
    cfg = get_cfg_default()
    file = tmp_path / "cfg.yaml"
    file.write_text('INPUT:\n  SIZE: (48, 48)\n  TRANSFORMS: ["normalize"]\n')
    cfg.merge_from_file(str(file))
    assert cfg.INPUT.SIZE == (48, 48)
    assert tuple(cfg.INPUT.TRANSFORMS) == ("normalize",)
    file.write_text("OPTIM:\n  LEARNING_RATE: 1.0\n")
    with pytest.raises(KeyError, match="OPTIM.LEARNING_RATE"):
        cfg.merge_from_file(str(file))
    with pytest.raises(ValueError, match="mismatch"):
        cfg.merge_from_list(["OPTIM.MAX_EPOCH", "many"])
    optim = cfg.OPTIM.clone()
    optim.defrost()
    optim.LR = 1.0
    optim.freeze()
    assert cfg.OPTIM.LR == 0.0003


def test_clean_cfg_keeps_the_named_trainer():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def test_registry():
    registry = Registry("THING")

    @registry.register()
    class First:
        pass

    registry.register(First, force=True)
    assert registry.get("First") is First
    assert registry.registered_names() == ["First"]
    with pytest.raises(KeyError, match="First"):
        registry.register(First)
    with pytest.raises(KeyError, match="Second"):
        registry.get("Second")


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'CoOp'"):
        check_availability("coop", ["DAPT", "CoOp"])
    with pytest.raises(ValueError, match="None"):
        check_availability("coop", [])


def test_trainer_attributes(make_trainer):
    trainer = make_trainer()
    assert trainer.dm.dataset.classnames == ["red", "green", "blue"]
    assert trainer.lab2cname == {0: "red", 1: "green", 2: "blue"}
    assert trainer.num_classes == 3
    assert list(trainer._models) == list(trainer._optims) == list(trainer._scheds) == ["linear"]
    assert trainer.get_model_names() == ["linear"]
    assert trainer.get_current_lr() == 1e-5
    assert (trainer.start_epoch, trainer.epoch, trainer.max_epoch) == (0, 0, 4)
    assert trainer.train_loader_u is None
    assert trainer.device.type == "cpu"
    with pytest.raises(ValueError, match="twice"):
        trainer.register_model("linear", trainer.model)
    with pytest.raises(ValueError, match="other"):
        trainer.get_model_names("other")


def test_models_are_registered_after_construction():
    class Early(look_up("dassl.engine:TrainerBase")):
        def __init__(self):
            self.register_model("early")

    with pytest.raises(AttributeError, match="super"):
        Early()


def test_a_loss_that_is_no_number_stops(make_trainer):
    import torch

    with pytest.raises(FloatingPointError, match="Loss is infinite or NaN!"):
        make_trainer().model_backward_and_update(torch.tensor(float("nan")))
