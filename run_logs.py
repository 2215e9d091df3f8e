"""What a training run says of itself: `train.log`, TensorBoard, W&B."""

import json
import logging
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator

log = logging.getLogger(__name__)


class RunLogs:
    """The logs of one run in `folder`; processes other than the main one write none."""

    def __init__(self, folder: Path, accelerator: Accelerator):
        """From here on everything that is logged is in `train.log`, too."""
        self.folder, self.accelerator = folder, accelerator
        self.values: dict[str, list] = defaultdict(list)
        """Of every step since the last that was logged."""
        folder.mkdir(parents=True, exist_ok=True)
        main = accelerator.is_main_process
        if not main:
            logging.getLogger().setLevel(logging.WARNING)
        self._file = logging.FileHandler(folder / "train.log", encoding="utf-8") if main else logging.NullHandler()
        self._file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger().addHandler(self._file)

    def start(self, stage_name: str, model: str, config: dict, step: int) -> None:
        """Opens TensorBoard and W&B, and puts the config into TensorBoard."""
        # TensorBoard takes the first name for its folder, W&B for its project
        self.accelerator.init_trackers(stage_name, init_kwargs={"wandb": {"name": model}})
        if self.accelerator.is_main_process:
            text = json.dumps(config, indent=2, ensure_ascii=False)
            self.writer.add_text("config", f"```json\n{text}\n```", step)

    @property
    def writer(self):
        """TensorBoard's SummaryWriter."""
        return self.accelerator.get_tracker("tensorboard", unwrap=True)

    def write_step(self, step: int, learning_rate: float, rate: float) -> dict[str, float]:
        """Writes and returns the means of `values`, which then begin anew, the learning rate and steps a second."""
        means = {name: float(torch.tensor(values).mean()) for name, values in self.values.items()}
        self.values.clear()
        means |= {"learning_rate": learning_rate, "steps_per_second": rate}
        self.accelerator.log({f"training/{name}": value for name, value in means.items()}, step=step)
        self._file.handle(logging.makeLogRecord({"msg": f"step {step}: " + ", ".join(
            f"{name} {value:.5g}" for name, value in means.items())}))
        return means

    def write_validation(self, step: int, values: dict[str, float]) -> None:
        """Writes what a validation gave."""
        self.accelerator.log({f"validation/{name}": value for name, value in values.items()}, step=step)
        log.info("step %d validation: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def close(self) -> None:
        """Ends `train.log`; TensorBoard and W&B end with the accelerator."""
        logging.getLogger().removeHandler(self._file)
        self._file.close()
