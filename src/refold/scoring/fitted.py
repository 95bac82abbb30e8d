"""The state of a part that is fitted: named tensors, which a run keeps beside its weights."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from refold.errors import ConfigError


class Fitted:
    """Save and load the attributes that fitting sets.

    Attributes:
        role: what the part is, for messages.
        tensors: names of the attributes that are fitted.
    """

    role: ClassVar[str]
    tensors: ClassVar[Sequence[str]] = ()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the fitted tensors by name."""
        return {name: getattr(self, name) for name in self.tensors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the fitted tensors.

        Args:
            state: as `state_dict` returns it.

        Raises:
            ConfigError: it is the state of another class.
        """
        if set(state) != set(self.tensors):
            own = f"{type(self).__name__} has {list(self.tensors)}"
            raise ConfigError(f"the {self.role}'s state has {sorted(state)}; {own}")
        for name, value in state.items():
            setattr(self, name, value)
