"""The agents of a tape that are at work: a stack of sub-traces, each with its goal in its parent's trace.

Rule 1: a step of a deeper path opens the missing frames; a step of another path closes the frames that it leaves.
Rule 2: an agent that was called and has not acted yet stays on the stack while its caller goes on writing, because
        TapeAgents passes the input to it by steps of the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

from .reading import clip
from .traces import TraceWriter


@dataclass
class TapeFrame:
    """The run of one agent."""

    trace: TraceWriter
    path: str  # of the agent, beginning with the tape's own
    goal_id: str | None = None  # of its goal in the parent's trace
    acted: bool = False  # whether the agent has taken a step


class Frames:
    """The agents at work, from the tape's own to the one called last."""

    def __init__(self, root: TapeFrame) -> None:
        self._stack = [root]
        self.last = root  # the frame of the last step, which gets the environment's answer
        self.answer = ""  # the last answer of a sub-agent

    @property
    def root(self) -> TapeFrame:
        """The tape's own agent."""
        return self._stack[0]

    def of(self, path: str, at: str | None) -> TapeFrame:
        """The frame of the agent ``path``, which takes a step now."""
        while True:
            top = self._stack[-1]
            if path == top.path:
                break
            if path.startswith(f"{top.path}/"):
                self._open(top, path[len(top.path) + 1 :].split("/")[0], "", at)
            elif len(self._stack) == 1:  # an agent beside the tape's own goes below it: a tape is one trace at the top
                self._push(top, path, path, "", at)
            elif not top.acted and path == self._stack[-2].path:
                top = self._stack[-2]
                break
            else:
                self._close("completed" if top.acted else "stopped", top.trace.last_text, at)
        top.acted = True
        self.last = top
        return top

    def call(self, caller: TapeFrame, name: str, content: object, at: str | None) -> None:
        """Open a frame for the agent ``name``, which ``caller`` calls with ``content``."""
        while self._stack[-1] is not caller:
            self._close("stopped", "", at)
        self._open(caller, name, content if isinstance(content, str) else "", at)

    def respond(self, frame: TapeFrame, answer: str, at: str | None) -> None:
        """Close ``frame`` with its answer to its caller. The tape's own agent stays until the end of the tape."""
        self.answer = answer
        if frame is self.root:
            return
        while self._stack[-1] is not frame:
            self._close("stopped", "", at)
        self._close("completed", answer, at)

    def close_all(self, at: str | None) -> None:
        """Close all frames but the tape's own, at the end of the tape."""
        while len(self._stack) > 1:
            top = self._stack[-1]
            self._close("completed" if top.acted else "stopped", top.trace.last_text, at)

    def _open(self, parent: TapeFrame, name: str, content: str, at: str | None) -> None:
        self._push(parent, f"{parent.path}/{name}", name, content, at)

    def _push(self, parent: TapeFrame, path: str, name: str, content: str, at: str | None) -> None:
        title = clip(f"{name}: {content}", 200) if content.strip() else name
        goal_id = parent.trace.goal(title, type="agent_call", status="in_progress", at=at)
        child = TapeFrame(parent.trace.child(), path, goal_id)
        task = content if content.strip() else f"{name}, called by {parent.path}"
        child.trace.create(
            task,
            agent_type=name,
            parent=parent.trace,
            parent_goal_id=goal_id,
            metadata={"format": "tapeagents", "agent": path},
            at=at,
        )
        if content.strip():
            child.trace.message("user", content, at=at, agent=parent.path)
        self._stack.append(child)

    def _close(self, status: str, answer: str, at: str | None) -> None:
        frame = self._stack.pop()
        frame.trace.complete(status, summary=answer, at=at)
        parent = self._stack[-1]
        assert frame.goal_id is not None
        patch = {"status": "completed" if status == "completed" else "abandoned"}
        parent.trace.goal_update(frame.goal_id, at=at, **patch, **({"summary": answer} if answer.strip() else {}))
        if self.last is frame:
            self.last = parent
