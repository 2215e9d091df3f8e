"""Reading of the Arrow datasets that caches are kept in."""

from pathlib import Path

from datasets import Dataset, Features, load_from_disk


def read_rows(folder: str | Path, features: Features) -> Dataset:
    """The rows of a dataset that was saved to `folder`. ValueError if they cannot be read or are not of `features`.

    Offsets and texts are read once: one that leads out of the file would end the process, or give other memory.
    """
    try:
        rows = load_from_disk(str(folder))
        own_types = [field.name for field in rows.data.schema if field.metadata]
        rows.data.validate(full=True)
    except Exception as error:  # a damaged or foreign file makes the readers raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"not readable: {reason}") from error
    if rows.features != features or rows.data.schema.names != list(features):
        raise ValueError(f"its columns are {', '.join(map(str, rows.features))}")
    if own_types:  # such types have run code in earlier versions of pyarrow (CVE-2023-47248)
        raise ValueError(f"{', '.join(own_types)} of a type of its own")
    if rows.data.schema.types != features.arrow_schema.types:
        raise ValueError("its columns are of other types than its description says")
    return rows
