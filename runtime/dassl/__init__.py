"""Dassl's public interface for current PyTorch: data, trainers, optimisers, checkpoints, logs.

An independent implementation of the interface of Dassl.pytorch 0.6.3 (Kaiyang Zhou, MIT), so that
trainer and dataset files written for Dassl run unmodified. Importing it changes nothing outside
the package. docs/runtime.md of promptclip lists the deliberate differences.
"""

# The public version is Dassl's, for code that compares it; the local part says whose this is.
__version__ = "0.6.3+promptclip.1"
