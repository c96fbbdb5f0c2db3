"""The runner of the pages' blocks: what it finds on a page, and its shell."""

from pathlib import Path

import pytest

from tests.docs.pages import Block, Page
from tests.docs.running import check_excuse, run_python
from tests.docs.shell import Shell

PAGE = """# Title

<!-- not run: needs Docker -->
```bash
docker run
```

<!-- not run: needs Docker -->

```bash title="a.sh"
echo 1
```

<!-- not run: -->
```python
x = 1
```

- An item:

    ```yaml
    a:
      b: 1
    ```
"""


@pytest.fixture
def blocks(tmp_path: Path) -> list[Block]:
    """Return the blocks of the page above."""
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return Page(str(path)).blocks


def test_blocks_are_found_with_their_lines(blocks: list[Block]) -> None:
    """Blocks have their line, language, title and text, even if a list indents them."""
    assert [(block.line, block.language, block.title, block.text) for block in blocks] == [
        (5, "bash", "", "docker run\n"),
        (11, "bash", "a.sh", "echo 1\n"),
        (16, "python", "", "x = 1\n"),
        (22, "yaml", "", "a:\n  b: 1\n"),
    ]


def test_only_a_comment_right_above_excuses(blocks: list[Block]) -> None:
    """Only a comment with a reason, right above a block, excuses it."""
    assert [block.reason for block in blocks] == ["needs Docker", None, "", None]
    check_excuse(blocks[0])
    check_excuse(blocks[1])
    for block in blocks[2:]:
        with pytest.raises(AssertionError):
            check_excuse(block)


def test_a_session_that_prints_something_else_fails() -> None:
    """The report of a failed session has the expected and the actual value."""
    block = Block("page.md", 1, "pycon", "", None, ">>> 1 + 1\n3\n")
    with pytest.raises(AssertionError, match=r"line 1, in[\s\S]*Expected:\n *3\n *Got:\n *2\n"):
        run_python(block, block.text, {})


def test_blocks_share_their_names() -> None:
    """A block sees what the blocks before it have defined, in scripts and in sessions."""
    names: dict[str, object] = {}
    for language, text in (("python", "a = 1"), ("pycon", ">>> b = a + 1\n"), ("python", "c = b")):
        run_python(Block("page.md", 1, language, "", None, text), text, names)
    assert names["c"] == 2


def test_a_shell_keeps_its_variables_and_statuses(tmp_path: Path) -> None:
    """Commands run in one shell, which returns the output and the status of the last one."""
    with Shell(tmp_path) as shell:
        assert shell.run("export A=1\ncd /") == ("", 0)
        assert shell.run('echo "$A"; echo 2 >&2; (exit 3)') == ("1\n2\n", 3)


def test_a_shell_that_ends_or_hangs_is_an_error(tmp_path: Path) -> None:
    """The error for a shell that ends or hangs names the command."""
    with Shell(tmp_path) as shell, pytest.raises(AssertionError, match="ended during:\nexit 0"):
        shell.run("exit 0")
    with Shell(tmp_path) as shell, pytest.raises(AssertionError, match="ended during:\nsleep 60"):
        shell.run("sleep 60", seconds=0.1)
