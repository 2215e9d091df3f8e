"""Reading of the Arrow datasets that caches are kept in."""

from pathlib import Path

from datasets import Dataset, Features, load_from_disk


def read_rows(folder: str | Path, features: Features) -> Dataset:
    """The rows of a dataset that was saved to `folder`. ValueError if they cannot be read or are not of `features`."""
    try:
        rows = load_from_disk(str(folder))
        own_types = [field.name for field in rows.data.schema if field.metadata]
    except Exception as error:  # a damaged or foreign file makes the readers raise anything
        raise ValueError(f"not readable: {str(error) or type(error).__name__}") from error
    if rows.features != features:
        raise ValueError(f"its columns are {', '.join(rows.features)}")
    if own_types:  # such types have run code in earlier versions of pyarrow (CVE-2023-47248)
        raise ValueError(f"{', '.join(own_types)} of a type of its own")
    return rows
