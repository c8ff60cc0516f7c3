import torch

from data import load_split, to_unit_range
from models import ModelConfig, build_model

N_STEPS = 4  # a quarter of the paper's, for the time it takes
MAX_UPDATES = 200  # about 85 are needed


def test_sixteen_digits_are_learnt_to_a_quarter_of_the_mean_images_error() -> None:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    images = to_unit_range(load_split("digits", "train", limit=16).images)
    model = build_model(ModelConfig(image_channels=1, n_steps=N_STEPS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-2, betas=(0.9, 0.95), weight_decay=0.001)
    mean_image_error = (images - images.mean(0)).square().mean().item()
    errors: list[float] = []
    for update in range(MAX_UPDATES):
        optimizer.param_groups[0]["lr"] = 1.5e-2 * min(1, (update + 1) / 20)
        optimizer.zero_grad()
        terms = model.loss(model(images, rng), images)
        terms["loss"].backward()
        optimizer.step()
        errors.append(terms["reconstruction"].item())
        if sum(errors[-5:]) / 5 < mean_image_error / 4 and update > 5:
            return
    raise AssertionError(f"error {sum(errors[-5:]) / 5} after {MAX_UPDATES} updates; mean image {mean_image_error}")
