"""Lightning's trainer, with the types and bounds of its settings declared for the check of a configuration."""

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
    """Make Lightning's trainer for a run.

    Args:
        accelerator: as in `lightning.Trainer`, as are all that follow; `refold.launch.hardware.plan` has replaced each
            "auto" where several processes have to agree.
        devices: number of devices of this node, or their indices.
        num_nodes: at least 1.
        strategy: "ddp" for several processes.
        precision: number type of the products; "bf16-mixed" and "16-mixed" keep weights in float32.
        max_epochs: at least -1, which is no limit.
        max_steps: optimizer steps, at least -1, which is no limit.
        gradient_clip_val: largest norm of the gradient, greater than 0; None: no limit.
        accumulate_grad_batches: batches in one optimizer step, at least 1.
        log_every_n_steps: optimizer steps between two logged rows, at least 1.
        check_val_every_n_epoch: epochs between two validations, at least 1.
        limit_train_batches: batches of an epoch, or their share in (0, 1]; None: all.
        deterministic: True refuses operations that are not reproducible.
        others: any other argument of `lightning.Trainer`, so that `+trainer.profiler=simple` works.

    Returns:
        The trainer.

    Raises:
        ValueError: a value is out of bounds.
    """
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,  # pyright: ignore[reportArgumentType]  "auto" has been replaced by the plan
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
