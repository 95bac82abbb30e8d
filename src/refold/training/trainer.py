"""Lightning's trainer, with types and bounds of its settings declared where the check can read them."""

from typing import Annotated, Any, Literal

import lightning as L

from refold.bounds import at_least, checked, more_than, within

Count = Annotated[int, at_least(1)]


@checked("trainer")
def make_trainer(
    *,
    accelerator: Literal["auto", "cpu", "gpu"],
    devices: Count | Literal["auto"] | list[int],
    num_nodes: Count,
    strategy: Literal["auto", "ddp"],
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"],
    max_epochs: Annotated[int, at_least(-1)],
    max_steps: Annotated[int, at_least(-1)],
    gradient_clip_val: Annotated[float, more_than(0)] | None,
    accumulate_grad_batches: Count,
    log_every_n_steps: Count,
    check_val_every_n_epoch: Count,
    limit_train_batches: Count | Annotated[float, within(0, 1, open_start=True)] | None,
    deterministic: bool,
    **others: Any,
) -> L.Trainer:
    """A trainer whose `auto` has been made definite by `refold.launch.hardware.plan`.

    Args: as `lightning.Trainer` calls them; `others` go to it as they are, so `+trainer.profiler=simple` works.
    """
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
        max_epochs=max_epochs,
        max_steps=max_steps,
        gradient_clip_val=gradient_clip_val,
        accumulate_grad_batches=accumulate_grad_batches,
        log_every_n_steps=log_every_n_steps,
        check_val_every_n_epoch=check_val_every_n_epoch,
        limit_train_batches=limit_train_batches,
        deterministic=deterministic,
        use_distributed_sampler=False,  # our loaders share the windows out themselves, and repeat none
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **others,
    )
