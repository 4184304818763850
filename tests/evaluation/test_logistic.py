"""Logistic regressions of many tasks at once, beside scikit-learn's one by one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from saehelpers.evaluation.logistic import Factors, _fit, predict_logistic


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_by_one(x, y):
    """Weights and intercepts of scikit-learn's own, converged."""
    models = [
        LogisticRegression(solver="lbfgs", tol=1e-10, max_iter=10_000).fit(*task)
        for task in zip(x.double().numpy(), y.numpy(), strict=True)
    ]
    return np.stack([[*model.coef_[0], *model.intercept_] for model in models])


def fitted(x, y):
    """Weights and intercept of features that are not products, as they are."""
    values, rows, _ = Factors.of(x.double())
    rows = torch.cat([rows, torch.eye(values.shape[2]).double()[-1:].T.expand_as(rows[..., :1])], 3)
    return _fit(values[:, None], torch.ones(1, x.shape[1]), rows, y.double()[:, None])


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_weights_are_those_of_scikit_learn(scale):
    x = scale * random(5, 300, 4)
    y = (x @ random(5, 4, 1, seed=1))[..., 0] > scale
    assert np.allclose(fitted(x, y), one_by_one(x, y), rtol=1e-4, atol=1e-5)


def test_separable_classes_and_columns_that_say_nothing_have_finite_weights():
    x = torch.linspace(-1, 1, 100)[None, :, None] * torch.tensor([1e3, 0.0, 1e3])
    y = x[..., 0] > 0
    (weights,) = fitted(x, y)
    assert weights.isfinite().all()
    assert weights[1] == 0
    assert weights[0] == pytest.approx(weights[2])  # the penalty shares them out
    assert torch.equal(x[0].double() @ weights[:-1] + weights[-1] > 0, y[0])


def test_the_gradient_is_zero():
    x, y = random(3, 50, 6).double(), random(3, 50, seed=1) < -1
    weights = fitted(x, y).requires_grad_()
    margins = (x @ weights[:, :-1, None])[..., 0] + weights[:, -1:]
    loss = torch.nn.functional.softplus(-margins * (2.0 * y - 1)).sum()
    (gradient,) = torch.autograd.grad(loss + weights[:, :-1].square().sum() / 2, weights)
    assert gradient.abs().max() < 1e-4


def test_products_are_predicted_from_as_what_they_make():
    used, y = torch.arange(90) % 3, random(2, 60, seed=2) > 0.5
    values = torch.cat([random(2, 90, 4), torch.ones(2, 90, 1)], dim=2).double()
    features = Factors(values, random(2, 3, 5, 20, seed=1).double(), used)
    x = features.dense()
    assert torch.allclose(x[1, 7], values[1, 7] @ features.rows[1, used[7]])
    predicted = predict_logistic(features, y, 20)
    assert torch.equal(predicted, predict_logistic(Factors.of(x), y, 20))
    centred = x - x[:, :60].mean(1, keepdim=True)
    scaled = centred * (20 / centred[:, :60].square().sum(2).mean(1)).sqrt()[:, None, None]
    for own, answers, found in zip(scaled.numpy(), y.numpy(), predicted, strict=True):
        model = LogisticRegression(tol=1e-10, max_iter=10_000).fit(own[:60], answers)
        assert np.array_equal(model.predict(own[60:]), found)
    assert 0 < predicted.sum() < predicted.numel()
