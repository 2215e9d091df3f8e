import logging

import pytest

import cli


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("x.txt: line 3 is wrong"), 2, "error: x.txt: line 3 is wrong\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_user_sees_one_sentence(error, status, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == status
    assert capsys.readouterr().err.endswith(line)


def test_a_mistake_of_ours_keeps_its_traceback():
    def main():
        assert False, "an invariant"  # noqa: B011, PT015

    with pytest.raises(AssertionError, match="an invariant"):
        cli.run(main)


def test_log_lines_reach_the_console(caplog):
    with caplog.at_level(logging.INFO):
        cli.run(lambda: logging.getLogger("script").info("three clips"))
    assert "three clips" in caplog.text
