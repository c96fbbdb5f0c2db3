"""A graph that makes four variations of a photo, and waits until a human has approved one.

What happened is stored in the file "approval.sqlite" where it is run, so that the approval may come
from another process, days later; then the graph makes the approved variation's own, larger:

    pip install . 'langgraph>=1.2' 'langgraph-checkpoint-sqlite>=3.0.1'
    python examples/approval.py vary [PHOTO]
    python examples/approval.py approve NUMBER

Its steps call the tool themselves. A model could as well: see agent.py.
"""

import argparse
import base64
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from langchain_image_variation import ImageVariationTool

PHOTO = Path(__file__).parent / "chelsea.png"
# The conversation's identity: it names what is stored, and the folder of the results.
CONFIG = {"configurable": {"thread_id": "approval"}}


def calls(image: str, n: int, size: str) -> dict[str, Any]:
    """Return a step that asks for variations, as a model would."""
    call = {"name": "image_variation", "args": {"image": image, "n": n, "size": size}, "id": image}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def ask_for_four(state: MessagesState) -> dict[str, Any]:
    """Ask for four variations of the picture that came last: the photo."""
    return calls("latest", 4, "256x256")


def approve(state: MessagesState) -> Command[Literal["make", "__end__"]]:
    """Wait for a human; with the number of a variation go on from that, with 0 stop here."""
    images = state["messages"][-1].artifact["images"]
    number = interrupt([image["path"] for image in images])
    if not 1 <= number <= len(images):
        return Command(goto=END)
    return Command(goto="make", update=calls(images[number - 1]["handle"], 2, "512x512"))


def graph(checkpointer: SqliteSaver) -> Any:
    """Return the graph: make four, have one approved, make two of that."""
    tools = ToolNode([ImageVariationTool()])
    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask_for_four)
    builder.add_node("make_four", tools)
    builder.add_node("approve", approve)
    builder.add_node("make", tools)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "make_four")
    builder.add_edge("make_four", "approve")
    builder.add_edge("make", END)
    return builder.compile(checkpointer)


def vary(photo: Path) -> None:
    """Start anew with a photo, and print which pictures wait for approval."""
    picture = {
        "type": "image",
        "base64": base64.b64encode(photo.read_bytes()).decode("ascii"),
        "mime_type": "image/png" if photo.suffix.lower() == ".png" else "image/jpeg",
    }
    with SqliteSaver.from_conn_string("approval.sqlite") as checkpointer:
        checkpointer.delete_thread("approval")
        result = graph(checkpointer).invoke({"messages": [HumanMessage([picture])]}, CONFIG)
    print("Which of these is approved? Say: approval.py approve NUMBER, with 0 for none.")
    for number, path in enumerate(result["__interrupt__"][0].value, start=1):
        print(f"{number} {path}")


def go_on(number: int) -> None:
    """Go on with the answer of a human, and print what was made."""
    with SqliteSaver.from_conn_string("approval.sqlite") as checkpointer:
        graph_ = graph(checkpointer)
        if not graph_.get_state(CONFIG).interrupts:
            raise SystemExit("Nothing waits for approval here; say: approval.py vary")
        result = graph_.invoke(Command(resume=number), CONFIG)
    print(result["messages"][-1].text)


def main() -> None:
    """Read what to do from the command line, and do it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("vary").add_argument("photo", nargs="?", type=Path, default=PHOTO)
    steps.add_parser("approve").add_argument("number", type=int)
    arguments = parser.parse_args()
    if arguments.step == "vary":
        vary(arguments.photo)
    else:
        go_on(arguments.number)


if __name__ == "__main__":
    main()
