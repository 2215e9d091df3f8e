"""What a training run says of itself: `train.log`, TensorBoard, W&B."""

import json
import logging
from pathlib import Path

import torch
from accelerate import Accelerator

from processes import of_all

log = logging.getLogger(__name__)


class RunLogs:
    """The logs of one run in `folder`; processes other than the main one write none."""

    def __init__(self, folder: Path, accelerator: Accelerator):
        """From here on everything that is logged is in `train.log`, too."""
        self.folder, self.accelerator = folder, accelerator
        folder.mkdir(parents=True, exist_ok=True)
        main = accelerator.is_main_process
        if not main:
            logging.getLogger().setLevel(logging.WARNING)
        self._file = logging.FileHandler(folder / "train.log", encoding="utf-8") if main else logging.NullHandler()
        self._file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._file)

    def start(self, stage_name: str, model: str, config: dict, step: int) -> None:
        """Opens TensorBoard and W&B, and puts the config into TensorBoard.

        What a killed run has logged there of steps that come again is withdrawn.
        """
        # TensorBoard takes the first name for its folder, W&B for its project
        options = {"wandb": {"name": model}, "tensorboard": {"purge_step": step + 1 if step else 0}}
        self.accelerator.init_trackers(stage_name, init_kwargs=options)
        if self.accelerator.is_main_process:
            text = json.dumps(config, indent=2, ensure_ascii=False)
            self.writer.add_text("config", f"```json\n{text}\n```", step)

    @property
    def writer(self):
        """TensorBoard's SummaryWriter."""
        return self.accelerator.get_tracker("tensorboard", unwrap=True)

    def write_step(self, step: int, values: dict[str, list], **others: float) -> dict[str, float]:
        """Writes the means of `values` (over processes, too), which it returns, and `others` beside them."""
        own = {name: float(torch.tensor(of_steps).mean()) for name, of_steps in values.items()}
        of_processes = of_all(own)
        means = {name: sum(values[name] for values in of_processes) / len(of_processes) for name in own}
        logged = means | others
        self.accelerator.log({f"training/{name}": value for name, value in logged.items()}, step=step)
        self._file.handle(logging.makeLogRecord({"msg": f"step {step}: " + ", ".join(
            f"{name} {value:.5g}" for name, value in logged.items())}))
        return means

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Writes what a validation gave."""
        self.accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=step)
        log.info("step %d validation: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def flush(self) -> None:
        """Puts on disk what was logged, so that it is there however the run ends."""
        if self.accelerator.is_main_process:
            self.writer.flush()

    def close(self) -> None:
        """Ends `train.log`; TensorBoard and W&B end with the accelerator."""
        logging.getLogger().removeHandler(self._file)
        self._file.close()
