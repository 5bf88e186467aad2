"""Knows the methods of one engine: its own method, the methods that requests may name, and the
resources that they need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import methods
from .._core import Policy
from ..config import EngineConfig, SpeculativeConfig
from ..errors import InvalidInputError
from ..methods import Method
from ..model import hrad


class Presets:
    """Reads presets with the defaults of the engine's configuration.

    own: the method of a request that names no method. Every function of this class raises
    InvalidInputError for a method that the engine cannot run.
    """

    def __init__(self, config: EngineConfig, further: Sequence[str | Method]) -> None:
        """further: presets that requests may name in addition to the engine's own."""
        self._config = config
        given = config.speculative
        self._given = given if isinstance(given, SpeculativeConfig) else None
        draft = config.draft()
        self._draft_folder = None if draft is None else Path(draft)
        self.own = self._fitted(config.method())
        self._allowed = [self.own, *(self._parse(text) for text in further)]
        self._has_draft = False
        self._arms: list[Method] = []
        self._classifier: hrad.Classifier | None = None

    def load(self, has_draft: bool) -> None:
        """Determine the candidates of `auto`, and read the classifier. Called after the weights are
        loaded."""
        self._has_draft = has_draft
        self._check_draft(self.own)
        self._arms = self._chosen_from()
        folder = Path(self._config.model)
        self._classifier = hrad.load_for(self._allowed, folder, self._draft_folder, has_draft)

    @property
    def arms(self) -> list[str]:
        """The candidates of `auto`, as presets; empty without `auto`."""
        return [arm.text for arm in self._arms]

    def names(self) -> list[str]:
        """Return the methods that `resolve` accepts by their name alone."""
        return [name for name in methods.METHODS if self._is_built(name)]

    def _is_built(self, name: str) -> bool:
        try:
            self.resolve(name)
        except InvalidInputError:
            return False
        return True

    def resolve(self, given: str | Method | None) -> Method:
        """Return the method of a request. Raises InvalidInputError if the engine was not built for
        it."""
        if given is None:
            return self.own
        method = self._parse(given)
        self._check_draft(method)
        hrad.check_request(self._classifier, method, self._draft_folder)
        built = {m.rejection for m in self._allowed if m.policy() is None}
        if method.policy() is None and method.rejection not in built:
            raise InvalidInputError(
                f"method {method.text}: expected an engine that was built for it, got one without"
            )
        if method.rejection and not any(m.rejection for m in self._allowed):
            raise InvalidInputError(
                f"method {method.text}: expected acceptance coupled, as the engine was built for, "
                "got rejection"
            )
        for what in ("gamma", "branches", "width"):
            most = max(getattr(m, what) for m in self._allowed)
            if getattr(method, what) > most:
                raise InvalidInputError(
                    f"method {method.text}: expected {what} of at most {most}, as the engine was "
                    f"built for, got {getattr(method, what)}"
                )
        return method

    def core_options(self) -> dict[str, Any]:
        """Return arguments for EngineCore: the sizes that the largest allowed method needs, and the
        options that some methods need."""
        options: dict[str, Any] = {
            "max_gamma": max(method.gamma for method in self._allowed),
            "max_branches": max(1, *(method.branches for method in self._allowed)),
            "max_width": max(method.width for method in self._allowed),
        }
        if self._classifier is not None:
            options["hrad"] = self._classifier.core
        if self._arms:
            options["tuned"] = [arm.policy() for arm in self._arms]
        if any(method.rejection for method in self._allowed):
            options["rejection"] = True
        return options

    def policies(self) -> list[Policy]:
        """Return the policies of the allowed methods that can run, except `auto`, which has no
        fixed policy."""
        found = [m.policy() for m in self._allowed if self._has_draft or not m.needs_draft]
        return [policy for policy in found if policy is not None]

    def _parse(self, method: str | Method) -> Method:
        """Parse a preset. An option that the preset does not set gets the engine's value."""
        if isinstance(method, Method):
            return method
        given = self._given
        if given is None:
            return self._fitted(methods.parse(method))
        found = methods.parse(
            method,
            gamma=given.num_speculative_tokens,
            k_max=given.num_branches,
            epsilon=given.confidence_threshold,
            hrad=methods.HRAD_OFF if given.hrad is None else os.fspath(given.hrad),
            acceptance=given.acceptance,
        )
        return self._fitted(found)

    def _fitted(self, method: Method) -> Method:
        """Return the method. If the method uses a classifier and no gamma was given, the method
        gets the classifier's gamma."""
        gamma = None if self._given is None else self._given.num_speculative_tokens
        return hrad.fitted(method, gamma, self._draft_folder)

    def _check_draft(self, method: Method) -> None:
        if method.needs_draft and not self._has_draft:
            raise InvalidInputError(f"method {method.name}: expected a draft model, got none")

    def _chosen_from(self) -> list[Method]:
        """Return the candidates of `auto`. Without a draft, only candidates that need no draft are
        returned. Returns [] if `auto` is not allowed."""
        found = [method for method in self._allowed if method.policy() is None]
        if len({method.rejection for method in found}) > 1:
            raise InvalidInputError(
                "method auto: expected one acceptance in an engine, got coupled and rejection"
            )
        most = max(found, key=lambda method: (method.gamma, method.branches), default=None)
        arms = most.arms if most else ()
        return [arm for arm in arms if self._has_draft or not arm.drafts]
