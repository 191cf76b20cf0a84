"""Which class has the last word on a method: what goes with another of its methods must not be inherited without it."""

from __future__ import annotations


def height(cls: type, name: str) -> int:
    """How many classes up the one is that gives the method: 0 for the class itself.

    Example:
        >>> from hamflow.overrides import height
        >>> class Base:
        ...     def run(self): ...
        >>> class Heir(Base):
        ...     pass
        >>> height(Base, "run"), height(Heir, "run")
        (0, 1)
    """
    return next(k for k, each in enumerate(cls.__mro__) if name in vars(each))
