"""A graph that makes four variations of a photo, and waits for a human to approve one.

The state is stored in the file "approval.sqlite" of the working directory, so the approval may come
from another process, days later. The graph then makes larger variations of the approved one:

    pip install . 'langgraph>=1.2' 'langgraph-checkpoint-sqlite>=3.0.1'
    python examples/approval.py vary [PHOTO]
    python examples/approval.py approve NUMBER

Here the steps of the graph call the tool. In agent.py, a model calls it.
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
# The thread_id identifies the stored state, and the folder of results.
CONFIG = {"configurable": {"thread_id": "approval"}}


def calls(image: str, n: int, size: str) -> dict[str, Any]:
    """Return an update of the state that calls the tool, as a model would."""
    call = {"name": "image_variation", "args": {"image": image, "n": n, "size": size}, "id": image}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def ask_for_four(state: MessagesState) -> dict[str, Any]:
    """Ask for four variations of the newest image: the photo."""
    return calls("latest", 4, "256x256")


def approve(state: MessagesState) -> Command[Literal["make", "__end__"]]:
    """Wait for a human. Continue with the variation of that number, or stop if it is 0."""
    images = state["messages"][-1].artifact["images"]
    number = interrupt([image["path"] for image in images])
    if not 1 <= number <= len(images):
        return Command(goto=END)
    return Command(goto="make", update=calls(images[number - 1]["handle"], 2, "512x512"))


def graph(checkpointer: SqliteSaver) -> Any:
    """Return the graph: make four variations, wait for approval, make two of the approved one."""
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
    """Start with a photo, and print the variations that wait for approval."""
    image = {
        "type": "image",
        "base64": base64.b64encode(photo.read_bytes()).decode("ascii"),
        "mime_type": "image/png" if photo.suffix.lower() == ".png" else "image/jpeg",
    }
    with SqliteSaver.from_conn_string("approval.sqlite") as checkpointer:
        checkpointer.delete_thread("approval")
        result = graph(checkpointer).invoke({"messages": [HumanMessage([image])]}, CONFIG)
    print("Approve one of these: approval.py approve NUMBER. Use 0 to approve none.")
    for number, path in enumerate(result["__interrupt__"][0].value, start=1):
        print(f"{number} {path}")


def resume(number: int) -> None:
    """Continue with the answer of a human, and print what was made."""
    with SqliteSaver.from_conn_string("approval.sqlite") as checkpointer:
        approval_graph = graph(checkpointer)
        if not approval_graph.get_state(CONFIG).interrupts:
            raise SystemExit("Nothing waits for approval. Start with: approval.py vary")
        result = approval_graph.invoke(Command(resume=number), CONFIG)
    print(result["messages"][-1].text)


def main() -> None:
    """Run the step that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("vary").add_argument("photo", nargs="?", type=Path, default=PHOTO)
    steps.add_parser("approve").add_argument("number", type=int)
    arguments = parser.parse_args()
    if arguments.step == "vary":
        vary(arguments.photo)
    else:
        resume(arguments.number)


if __name__ == "__main__":
    main()
