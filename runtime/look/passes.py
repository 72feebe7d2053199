"""The cuts of a network, each opened when it is first needed."""

from __future__ import annotations

from collections.abc import Collection
from threading import Lock

from ..bundle.cuts import Cut, cuts
from ..bundle.loading import Bundle
from ..errors import BundleError
from ..sessions.backend import Backend
from ..sessions.base import Session
from .axes import check_axes


class Passes:
    """The cuts of a bundle's network that can be run here.

    The longest is opened at once, so that what is wrong with a bundle is said when it is loaded;
    a shorter one when a head reads no more than it gives.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Load the longest cut that there is.

        Raises:
            BundleError: it is not what the manifest says.
        """
        self._bundle, self._backend = bundle, backend
        self._cuts = [cut for cut in cuts(bundle.manifest) if cut.graph in backend.files]
        self._sessions: dict[str, Session] = {}
        self._lock = Lock()  # callers may be threads
        self.session(self.longest)

    @property
    def longest(self) -> Cut:
        """The cut that gives out most."""
        return self._cuts[-1]

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return list(self._sessions.values())

    def choose(self, names: Collection[str]) -> Cut:
        """The shortest cut that gives out all of these.

        Raises:
            BundleError: as `giving`.
        """
        return self.giving(names)[0]

    def giving(self, names: Collection[str]) -> list[Cut]:
        """The cuts that give out all of these, the shortest first.

        Raises:
            BundleError: there is none here: the bundle was opened by engines of fewer.
        """
        if found := [cut for cut in self._cuts if cut.gives(names)]:
            return found
        missing = sorted(set(names) - set(self.longest.outputs))
        enough = next(cut for cut in cuts(self._bundle.manifest) if cut.gives(names))
        there = ",".join([*(cut.name for cut in self._cuts), enough.name])
        raise BundleError(
            f"no engine in {self._bundle.path} gives out {missing[0]}: the longest cut built is "
            f"{self.longest.name}; run `mdrt build {self._bundle.path} --cuts {there}`"
        )

    def session(self, cut: Cut) -> Session:
        """A cut, opened.

        Raises:
            BundleError: it is not what the manifest says.
        """
        with self._lock:
            if cut.graph not in self._sessions:
                session = self._backend.open(self._backend.files[cut.graph])
                check_axes(self._bundle, cut.graph, session)
                self._sessions[cut.graph] = session
            return self._sessions[cut.graph]

    def close(self) -> None:
        """Give back what the graphs take."""
        for session in self.sessions:
            session.close()
