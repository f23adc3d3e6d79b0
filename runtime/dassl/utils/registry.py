"""Names to classes: how a trainer, dataset or backbone is found from its name in a config."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


class Registry:
    """Maps the `__name__` of registered classes and functions to them.

    Use `@REGISTRY.register()` above a definition, or `REGISTRY.register(obj)`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._obj_map: dict[str, Any] = {}

    @overload
    def register(self, obj: None = None, force: bool = False) -> Callable[[T], T]: ...
    @overload
    def register(self, obj: T, force: bool = False) -> T: ...
    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Add an object under its `__name__`.

        Args:
            obj: a class or function; None when used as a decorator.
            force: replace an earlier object of that name.

        Raises:
            KeyError: if the name is taken.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, force)
        name = obj.__name__
        if name in self._obj_map and not force:
            raise KeyError(f'"{name}" is already in the {self._name} registry')
        self._obj_map[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """Return the object of that name.

        Raises:
            KeyError: if nothing is registered under it.
        """
        if name not in self._obj_map:
            raise KeyError(f'"{name}" is not in the {self._name} registry')
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._obj_map)
