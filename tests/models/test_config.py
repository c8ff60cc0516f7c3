import json
import re

import pytest

from errors import UserError
from models import MODELS, ModelConfig, build_model


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_channels", 0),
        ("latent_dim", 0),
        ("n_steps", -1),
        ("widths", ()),
        ("widths", (8, 0)),
        ("v_threshold", 0.0),
        ("v_threshold", float("nan")),
        ("v_threshold", float("inf")),
        ("v_threshold", 1e300),
        ("v_threshold", 10**400),
        ("latent_dim", 5000),
        ("n_candidates", 10**400),
        ("mmd_weight", float("nan")),
        ("mmd_weight", -0.1),
        ("mmd_weight", 1e7),
        ("distance", "l2"),
        ("decay", 1.0),
        ("decay", 0.0),
        ("decay", -0.1),
        ("decay", 1e-17),
        ("lif_surrogate", "sigmoid"),
        ("sampler_surrogate", "sigmoid"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field) as refusal:
        ModelConfig(**{field: value})
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 200


def test_a_dictionary_through_json_gives_the_same_config() -> None:
    config = ModelConfig(widths=(8, 16), latent_dim=3, lif_surrogate="code", strict_threshold=True, mmd_weight=0.5)
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again != ModelConfig()
    assert again.image_size == 8


def test_a_dictionary_with_unknown_fields_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="colour"):
        ModelConfig.from_dict(ModelConfig().to_dict() | {"colour": 1})


def test_a_field_that_an_older_file_lacks_takes_its_default() -> None:
    values = ModelConfig(latent_dim=3).to_dict()
    del values["n_candidates"]
    assert ModelConfig.from_dict(values) == ModelConfig(latent_dim=3)


@pytest.mark.parametrize("values", [{"decay": 1e-16}, {"decay": 1 - 1e-16}, {"decay": 0.999}, {"v_threshold": 1}])
def test_every_leak_and_threshold_that_the_config_allows_builds(values: dict[str, float]) -> None:
    build_model(ModelConfig(widths=(8, 16), latent_dim=3, **values))


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=re.escape(f"unknown model 'gan'; choose one of {', '.join(MODELS)}")):
        build_model(ModelConfig(model="gan"))
