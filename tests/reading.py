"""What a reader of an executed notebook meets: outputs that fit a screen or two, and calm bars."""

import re

from nbformat import NotebookNode

LONGEST = 60  # lines of an output, or rows of a table
BAR = re.compile(r"(?P<label>.*): +\d+%\|.*\[(?P<elapsed>[\d:]+)<")  # as tqdm writes it


def outputs_of(cell: NotebookNode) -> list[tuple[str, int]]:
    """Each output of a cell as text, and of how many lines it is; what is printed is one."""
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    found = [(printed, len(printed.splitlines()))]
    for data in (output.data for output in cell.outputs if "data" in output):
        text = data.get("text/plain", "")
        found.append((text, max(len(text.splitlines()), data.get("text/html", "").count("<tr"))))
    return found


def hurried(text: str) -> list[str]:
    """Labels of bars that wrote twice within a second. A bar's states stand between two ends of
    lines, and each begins with a carriage return."""
    labels = []
    for line in text.split("\n"):
        states = [state.groups() for part in line.split("\r") if (state := BAR.match(part))]
        labels += [label for label, elapsed in set(states) if states.count((label, elapsed)) > 1]
    return labels


def faults(notebook: NotebookNode) -> list[str]:
    """What a reader would mind, a sentence for each."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if not cell.get("outputs"):
            continue
        place = f"cell {number} ({cell.source.splitlines()[0]})"
        for text, n_lines in outputs_of(cell):
            if n_lines > LONGEST:
                found.append(f"{place} shows {n_lines} lines, {LONGEST} is the most")
            for label in hurried(text):
                found.append(f"{place} has the bar {label!r} twice within a second")
    return found
