"""Linear actions fitted to activations over orbits."""

from typing import Annotated

import torch
from jaxtyping import Real
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from saehelpers.runs.checking import checked
from saehelpers.runs.precision import check_scale
from saehelpers.runs.progress import tqdm
from saehelpers.runs.threads import one_thread
from saehelpers.runs.wanted import Positive, Rate, Seed, one_of
from saehelpers.symmetry.actions import LinearAction, check_orbits
from saehelpers.symmetry.groups import Group, rotations_and_flips

FIT_METHODS = ("adam", "refined", "orthogonal", "least_squares", "whole_orbits", "per_element")
NEVER_TAKEN = 1e-10  # of the largest variance: directions with less are left out of a fit
ROWS = 2**16  # held in double precision at a time


@checked
def usual_fit(group: Group) -> str:
    """The method of `fit_action` for a group: the paper's for rotations, else "whole_orbits".

    From the identity, Adam hardly reaches a flip. And what canonical activations alone say of a
    flip does not undo it: of those of Shapes under D4 a matrix so fitted, which explains 99 %,
    turned mirrored activations back with errors of a fifth to a half of their variance.
    """
    return "adam" if group.has_name and rotations_and_flips(group)[1] == 1 else "whole_orbits"


@checked
@one_thread()
def fit_action(
    activations: Real[Tensor, "n order d"],
    group: Group,
    method: Annotated[str, one_of(FIT_METHODS)] = "adam",
    train_on_all_k: bool = True,
    epochs: Positive = 60,
    learning_rate: Rate = 1e-3,
    batch_size: Positive = 128,
    seed: Seed = 0,
    progress: bool = True,
) -> LinearAction:
    """Fit the matrices by which activations transform, one for each generator, multiplied out.

    About the mean activation as the origin, this is the least sum of squared errors

    - of C_n and D_n (Erdogan and Lucic, eq. 8), over p = 1..n and q = 1..2 of
      || psi(g^p h^q x) - M^p R^q psi(x) ||^2;
    - of any other group, over every generator s and every element g of
      || psi(s g x) - rho(s) rho(g) psi(x) ||^2, rho(g) the product of the matrices of the
      shortest word for g: some s g are new elements, the others are the group's relations.

    Args:
        activations: orbit activations (n, |G|, d), `[:, 0]` canonical; fitted to in float32.
        method: "adam" (all matrices start at the identity), "refined" (the same from the
            least-squares fit: a flip is far from the identity), "orthogonal" (Adam over orthogonal
            matrices, from the closest one for each generator: from the identity they reach
            no reflection, and half turns hardly), "least_squares" (each generator in closed
            form, from its own images of canonical activations alone), "whole_orbits" (each
            generator s in closed form over every element g, of || psi(s g x) - rho(s) psi(g x)
            ||^2: no activation is taken for canonical, so that what is turned is turned back,
            too), or "per_element" (one least-squares matrix for each element: the upper bound
            for linear maps, not a group action).
        train_on_all_k: the sums above; otherwise over the generators only. The closed forms
            have sums of their own.
        epochs, learning_rate, batch_size, seed: of Adam; the closed forms need none.
    """
    activations = activations.float()
    check_orbits(activations, group)
    origin = activations.mean((0, 1))
    centred = activations - origin
    scale = centred.pow(2).mean().sqrt()
    check_scale("activations", activations, scale, origin.abs().max())
    if method == "per_element":
        return LinearAction(
            group, torch.stack([_least_squares(centred, e) for e in range(group.order)]), origin
        )
    if method == "least_squares":
        generators = [_least_squares(centred, element) for element in group.generators]
    elif method == "whole_orbits":
        generators = _from_whole_orbits(centred, group)
    else:
        generators = _fit_by_adam(
            centred / scale,
            group,
            method,
            train_on_all_k,
            epochs,
            learning_rate,
            batch_size,
            seed,
            progress,
        )
    return LinearAction.from_generators(group, generators, origin)


def _least_squares(centred: Tensor, element: int) -> Tensor:
    if element == 0:
        return torch.eye(centred.shape[-1]).to(centred)
    # gelsd copes with directions that the activations never take (it takes their least norm)
    solution = torch.linalg.lstsq(centred[:, 0].cpu(), centred[:, element].cpu(), driver="gelsd")
    return solution.solution.T.contiguous().to(centred.device)


def _from_whole_orbits(centred: Tensor, group: Group) -> list[Tensor]:
    """For each generator s the matrix nearest to taking psi(g x) to psi(s g x), for every g."""
    d = centred.shape[-1]
    second = torch.zeros(d, d, dtype=torch.double)  # of all activations
    crossed = torch.zeros(len(group.generators), d, d, dtype=torch.double)
    for orbits in centred.split(max(1, ROWS // group.order)):
        orbits = orbits.cpu().double()
        rows = orbits.flatten(0, 1)
        second += rows.T @ rows
        for products, generator in zip(crossed, group.generators, strict=True):
            products += orbits[:, list(group.table[generator])].flatten(0, 1).T @ rows
    inverse = torch.linalg.pinv(second, rtol=NEVER_TAKEN, hermitian=True)
    return list((crossed @ inverse).to(centred))


def _procrustes(centred: Tensor, element: int) -> Tensor:
    """The orthogonal matrix that takes canonical activations closest to an element's."""
    left, _, right = torch.linalg.svd(centred[:, element].T @ centred[:, 0])
    return left @ right


def _fit_by_adam(centred, group, method, all_k, epochs, learning_rate, batch_size, seed, progress):
    n, _, d = centred.shape
    maps = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in group.generators)
    for linear, element in zip(maps, group.generators, strict=True):
        nn.init.eye_(linear.weight)
        if method == "refined":
            linear.weight.data = _least_squares(centred, element).cpu()
        if method == "orthogonal":
            linear.weight.data = _procrustes(centred, element).cpu()
            orthogonal(linear, orthogonal_map="cayley")
    maps.to(centred.device)
    optimiser = torch.optim.Adam(maps.parameters(), learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(epochs), f"action {group.name}", disable=not progress, leave=False)
    for _ in bar:
        total = torch.zeros((), device=centred.device)
        for index in torch.randperm(n, generator=generator).split(batch_size):
            with parametrize.cached():
                loss = _action_loss(maps, centred[index.to(centred.device)], group, all_k)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(index)
        bar.set_postfix(loss=f"{total.item() / n / d:.4f}", refresh=False)
    with torch.no_grad():
        return [linear.weight.detach().clone() for linear in maps]


def _action_loss(maps: nn.ModuleList, orbits: Tensor, group: Group, all_k: bool) -> Tensor:
    """Sum of the squared errors of what products of generators predict, averaged over the batch."""
    canonical = orbits[:, 0]
    if not all_k:
        generators = zip(group.generators, maps, strict=True)
        predictions = [(element, linear(canonical)) for element, linear in generators]
    elif group.has_name and rotations_and_flips(group)[1] == 2:
        predictions = _dihedral_predictions(maps, canonical, group)
    else:
        predictions = _predictions(maps, canonical, group)
    loss = orbits.new_zeros(())
    for element, prediction in predictions:
        loss = loss + (orbits[:, element] - prediction).pow(2).sum(-1).mean()
    return loss


def _predictions(maps: nn.ModuleList, canonical: Tensor, group: Group) -> list[tuple[int, Tensor]]:
    """(s g, rho(s) rho(g) psi) for every g and generator s, each g by the first word found."""
    predictions, elements, by_word = [], [0], {0: canonical}
    for element in elements:  # which grows
        for generator, linear in zip(group.generators, maps, strict=True):
            found, prediction = group.table[generator][element], linear(by_word[element])
            predictions.append((found, prediction))
            if found not in by_word:
                by_word[found] = prediction
                elements.append(found)
    return predictions


def _dihedral_predictions(
    maps: nn.ModuleList, canonical: Tensor, group: Group
) -> list[tuple[int, Tensor]]:
    """(g^p h^q, M^p R^q psi) for q = 1, 2 and p = 1..n."""
    (rotation, flip), (n, _) = maps, rotations_and_flips(group)
    once = flip(canonical)
    predictions = []
    for q, start in ((1, once), (0, flip(once))):
        for p in range(1, n + 1):
            start = rotation(start)
            predictions.append((p % n + n * q, start))
    return predictions
