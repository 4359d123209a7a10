"""What `mirl-serve` prints once it serves: the address, the model, the gate, what to try."""

from __future__ import annotations

from dataclasses import dataclass

from mirl_core import __version__
from mirl_core.algorithm.confidence import calibration_for
from mirl_core.algorithm.gates import GATES
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.presets import PRESETS

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has started."""

    name: str
    """The served model's first name."""
    model: ModelSettings
    options: MIRLOptions
    """The options of a request that sets none."""
    keys: bool
    """Whether clients need an API key."""
    pages: bool
    """Whether `/docs` is there."""
    playground: bool
    """Whether `/` is the playground."""
    quiet: bool
    """Whether vLLM's lines are left out of the log."""

    def summary(self, url: str) -> str:
        """Return the summary, one fact a line.

        Args:
            url: the server's base URL.
        """
        page = f"the playground on {url}/" if self.playground else f"the request on {url}/"
        try_ = f"{page}, or {url}/docs" if self.pages else page
        facts = {
            "gate": gate_line(self.options),
            "confidence": self._confidence(),
            "plain": f"the model {self.name}:direct answers without the gate",
            "keys": "clients need an API key" if self.keys else "",
            "try": try_,
            "log": "without vLLM's own lines; --log-level info shows them" if self.quiet else "",
        }
        lines = [f"MIRL {__version__} serves {self.name} at {url}"]
        return "\n".join(lines + [f"  {name:<11}{fact}" for name, fact in facts.items() if fact])

    def _confidence(self) -> str:
        if calibration_for(self.model, self.options):
            return "calibrated, where a request is like those of the calibration"
        if self.model.calibration:
            return "the vote's share: the calibration is for the model's own options"
        return "the vote's share: no calibration (mirl-eval calibrate makes one)"


def base_url(host: str, port: int, tls: bool = False) -> str:
    """Return the URL under which this machine reaches a server that listens on `host` and `port`."""
    name = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http{'s' if tls else ''}://{name}:{port}"


def gate_line(options: MIRLOptions) -> str:
    """Return what happens to a request's descriptions, in words."""
    named = f"preset {options.preset}: " if _is_preset(options) else ""
    if options.steered:
        weights = ", ".join(f"{weight:g}" for weight in options.contrast)
        sampled = f", then at most {options.descriptions} sampled" if options.descriptions else ""
        return f"{named}descriptions decoded with λ = {weights}{sampled}"
    gate = GATES[options.gate]
    if gate.uses_keep:
        fate = f"the best {options.keep} go on (by {gate.score_words(options)})"
    else:
        fate = "all go on"
    return f"{named}{options.descriptions} descriptions, {fate}, {options.forks} chains each"


def _is_preset(options: MIRLOptions) -> bool:
    """Return whether the options are those of the preset that they name."""
    preset = PRESETS.get(options.preset, {}) if options.preset else {}
    values = options.model_dump()
    return bool(preset) and all(values[name] == value for name, value in preset.items())
