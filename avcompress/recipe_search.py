"""What the section `search` of a recipe says: how long to look, how often, and what counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from avcompress.frozen import Model

Share = Annotated[float, Field(gt=0, le=1)]


class Search(Model):
    """The limits of a search; what is searched are the recipe's choices."""

    budget_s: PositiveFloat = Field(
        description="seconds that a search may take, those of earlier commands included, ended or killed"
    )
    trial_s: PositiveFloat = Field(3600.0, description="seconds after which a trial is ended, and counts as failed")
    trials: PositiveInt = Field(24, description="candidates, at most, in each tier of cost")
    width: PositiveInt = Field(8, description="candidates of a round, which are compared with each other")
    shares: Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        (0.25, 1.0), description="of validation images and of training steps: a round's passes, the last one with all"
    )
    keep: Share = Field(0.34, description="share of a round's candidates that goes on to its next pass, one at least")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="tpe: learns from the rounds before, as Optuna has it; random: each by itself"
    )
    seed: NonNegativeInt = Field(0, description="of the sampler: the same seed gives the same trials")
    stop: Literal["met", "budget"] = Field(
        "met", description="met: after the first tier that keeps the contract; budget: after all of them"
    )
    prefer: Literal["latency", "size", "accuracy"] = Field(
        "latency", description="what decides between candidates that keep the contract"
    )

    @model_validator(mode="after")
    def _ends_with_all(self) -> Search:
        if list(self.shares) != sorted(set(self.shares)) or self.shares[-1] != 1:
            raise ValueError(f"expected rising shares that end with 1, got {list(self.shares)}; mend them")
        return self
