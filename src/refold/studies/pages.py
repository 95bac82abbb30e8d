"""Put the text of a study between the marks of a page of documentation."""

from pathlib import Path

from refold.errors import ConfigError
from refold.runs.directory import write_atomically

BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"


def fill_page(page: Path, text: str) -> None:
    """Write a text between the marks of a page, as a block of code, and print it.

    Args:
        page: Markdown with the two marks.
        text: lines; blank ones around it are left out.

    Raises:
        ConfigError: the page has no marks.
    """
    before, begin, rest = (page.read_text() if page.is_file() else "").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ConfigError(f"{page}: it must be a page with the two lines {BEGIN.strip()} and {END}")
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    write_atomically(page, before + begin + "\n".join(f"    {line}".rstrip() for line in lines) + "\n" + end + after)
    print("\n".join(lines))
