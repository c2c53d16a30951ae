"""Proves that each loss is the number of its paper: against numpy, pixel by pixel, with pixels that give no loss and classes
that are not there; and that class weights are those of their papers, finite whatever the database lacks."""

import itertools
import re

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from tools.base.errors import UserError
from tools.labels.class_weights import Counts, class_weights, count, effective
from tools.solver.losses import LOSSES, NO_LOSS, Loss, read_loss

CLASSES = 5
WEIGHTS = [0.5, 2.0, 0.0, 1.25, 3.0]


def batch(seed=0, classes=CLASSES, shape=(3, 7, 9), there=None):
    """Logits and a target of which some pixels give no loss; `there`: the classes that occur."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (shape[0], classes, *shape[1:]))
    target = rng.choice(there or range(classes), shape)
    target[rng.random(shape) < 0.3] = NO_LOSS
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(target)


def pixels(logits, target):
    """(probabilities, classes) of the labelled pixels alone, in float64: p x classes, p."""
    z = logits.detach().double().numpy().transpose(0, 2, 3, 1)
    y = target.numpy()
    z, y = z[y != NO_LOSS], y[y != NO_LOSS]
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True), y


def numpy_ce(p, y, w=None):
    w = np.ones(p.shape[1]) if w is None else np.array(w)
    return sum(-w[c] * np.log(q[c]) for q, c in zip(p, y, strict=True)) / sum(w[c] for c in y)


def numpy_focal(p, y, w=None):
    w = np.ones(p.shape[1]) if w is None else np.array(w)
    return sum(-w[c] * (1 - q[c]) ** 2 * np.log(q[c]) for q, c in zip(p, y, strict=True)) / sum(w[c] for c in y)


def numpy_tversky(p, y, fp, fn):
    scores = []
    for c in np.unique(y):
        hit, false, missed = p[y == c, c].sum(), p[y != c, c].sum(), (1 - p[y == c, c]).sum()
        scores.append(hit / (hit + fp * false + fn * missed))
    return 1 - np.mean(scores)


def numpy_dice(p, y):
    return 1 - np.mean([2 * p[y == c, c].sum() / (p[:, c].sum() + (y == c).sum()) for c in np.unique(y)])


def numpy_jaccard(p, y):
    inter = {c: p[y == c, c].sum() for c in np.unique(y)}
    return 1 - np.mean([i / (p[:, c].sum() + (y == c).sum() - i) for c, i in inter.items()])


def numpy_lovasz(p, y):
    """By the definition: pixels enter the set of errors one by one, the largest first; each weighs what it adds to 1 - IoU."""
    losses = []
    for c in np.unique(y):
        truth = y == c
        errors = np.abs(truth - p[:, c])
        wrong, before, total = np.zeros(len(y), bool), 0.0, 0.0
        for i in np.argsort(-errors, kind="stable"):
            wrong[i] = True
            said = truth ^ wrong
            now = 1 - (said & truth).sum() / (said | truth).sum()
            total, before = total + errors[i] * (now - before), now
        losses.append(total)
    return np.mean(losses)


NUMPY = {
    "ce": numpy_ce, "focal": numpy_focal, "dice": numpy_dice, "jaccard": numpy_jaccard, "lovasz": numpy_lovasz,
    "tversky": lambda p, y: numpy_tversky(p, y, 0.3, 0.7),
}  # fmt: skip


def test_every_loss_has_an_independent_computation():
    assert set(NUMPY) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("there", [None, [1, 3], [2]], ids=["all", "two", "one"])
def test_a_loss_is_that_of_numpy_over_the_labelled_pixels(name, there):
    """Whether all classes are in the batch or some of them."""
    logits, target = batch(1, there=there)
    assert float(Loss(name)(logits, target)) == pytest.approx(NUMPY[name](*pixels(logits, target)), rel=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_numpy_and_0_where_there_is_no_loss(name):
    logits, target = batch(2, classes=3, shape=(2, 3, 4), there=[0, 2])
    logits.requires_grad_()
    Loss(name)(logits, target).backward()
    expected = np.zeros(logits.shape)
    for place in itertools.product(*map(range, logits.shape)):
        values = []
        for change in (1e-3, -1e-3):
            moved = logits.detach().double().clone()
            moved[place] += change
            values.append(NUMPY[name](*pixels(moved, target)))
        expected[place] = (values[0] - values[1]) / 2e-3
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=3e-6)
    assert not logits.grad.permute(0, 2, 3, 1)[target == NO_LOSS].any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_batch_without_labelled_pixels_gives_0_and_gradients_of_0(name, weights):
    logits, target = batch(3)
    logits.requires_grad_()
    loss = Loss(f"ce + {name}" if name != "ce" else name, weights)(logits, torch.full_like(target, NO_LOSS))
    loss.backward()
    assert loss.shape == () and float(loss.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", ["ce", "focal"])
def test_class_weights_make_the_average_a_weighted_one(name):
    logits, target = batch(4)
    found = float(Loss(name, WEIGHTS)(logits, target))
    assert found == pytest.approx(NUMPY[name](*pixels(logits, target), WEIGHTS), rel=2e-6)


def test_a_batch_that_has_only_classes_of_weight_0_gives_0():
    logits, target = batch(4, there=[2])
    assert float(Loss("ce + focal", WEIGHTS)(logits, target)) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_logits_far_apart_give_finite_numbers(name):
    logits, target = batch(5)
    logits = (logits * 1000).requires_grad_()
    loss = Loss(name)(logits, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_a_sum_adds_its_losses_by_their_factors():
    logits, target = batch(6)
    p, y = pixels(logits, target)
    expected = numpy_ce(p, y) + 0.5 * numpy_dice(p, y) + 0.25 * numpy_lovasz(p, y)
    assert float(Loss("ce + 0.5 dice + .25lovasz")(logits, target)) == pytest.approx(expected, rel=2e-6)
    assert read_loss("ce + 0.5 dice") == [(1, "ce", {}), (0.5, "dice", {})]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ce + 0.5 dise", "there is no loss 'dise'. Did you mean 'dice'? There is ce, focal, dice"),
        ("ce dice", "'ce dice' is not a loss"),
        ("ce +", "'' is not a loss"),
        ("-1 ce", "'-1 ce' is not a loss"),
        ("ce + 0 dice", "'dice' counts nothing"),
        ("ce + 2 ce", "'ce' stands there twice"),
    ],
)
def test_a_text_that_is_no_sum_of_losses_is_refused(text, words):
    with pytest.raises(UserError) as found:
        Loss(text)
    assert words in str(found.value) and f"LOSS = {text!r}" in str(found.value)


def test_class_weights_that_no_loss_reads_are_refused():
    with pytest.raises(UserError, match=r"CLASS_WEIGHTS are for ce and focal, LOSS = 'dice \+ lovasz' has neither"):
        Loss("dice + lovasz", WEIGHTS)


# ------------------------------------------------------------------------------------------------------- class weights


def records(seed=0, count=20, classes=(0, 1, 3, 4, 5, 6, 255), chances=(0.5, 0.25, 0.05, 0.1, 0.02, 0.04, 0.04)):
    """Label patches (1 x 8 x 8): class 2 never occurs, 5 is to be ignored, 6 and 255 are no classes; 4 is not in all."""
    rng = np.random.default_rng(seed)
    made = [rng.choice(classes, (1, 8, 8), p=chances).astype(np.uint8) for _ in range(count)]
    for patch in made[::2]:
        patch[patch == 4] = 0
    return made


def counted():
    """The pixels of all records that bear a class that counts."""
    all_labels = np.concatenate([r.ravel() for r in records()])
    return all_labels[np.isin(all_labels, [0, 1, 3, 4])]


def test_pixels_are_counted_by_class_without_the_ignored_and_unknown_ones():
    found = count(records(), 6, [5])
    assert found.pixels.tolist() == [int((counted() == c).sum()) for c in range(6)]
    having = [r for r in records() if (r == 4).any()]
    assert found.around[4] == sum(np.isin(r, [0, 1, 3, 4]).sum() for r in having)
    assert found.around[2] == found.around[5] == 0


def test_inverse_weights_are_scikit_learns_balanced_ones():
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3, 4]), y=counted())
    found = class_weights("inverse", records(), 6, [5])
    assert np.array(found)[[0, 1, 3, 4]] == pytest.approx(expected)


def test_median_weights_are_those_of_eigen_and_fergus():
    frequencies = {}
    for c in (0, 1, 3, 4):
        having = [r[np.isin(r, [0, 1, 3, 4])] for r in records() if (r == c).any()]
        frequencies[c] = sum((r == c).sum() for r in having) / sum(r.size for r in having)
    middle = np.median(list(frequencies.values()))
    found = class_weights("median", records(), 6, [5])
    assert [found[c] for c in (0, 1, 3, 4)] == pytest.approx([middle / f for f in frequencies.values()])


def test_effective_weights_are_cuis_with_a_beta_for_pixels():
    n = [int((counted() == c).sum()) for c in (0, 1, 3, 4)]
    beta = 1 - 4 / sum(n)
    raw = np.array([(1 - beta) / (1 - beta**k) for k in n])
    found = class_weights("effective", records(), 6, [5])
    assert [found[c] for c in (0, 1, 3, 4)] == pytest.approx(list(raw / raw.mean()))


def test_effective_weights_are_the_same_for_a_thousand_times_the_pixels_and_lie_between_none_and_inverse():
    few, many = np.array([1000, 10_000, 100_000]), np.array([1000, 10_000, 100_000]) * 1000
    found = effective(Counts(many, many))
    assert found == pytest.approx(effective(Counts(few, few)), rel=0.01)
    assert 10 < found[0] / found[2] < 100


@pytest.mark.parametrize("kind", ["inverse", "median", "effective"])
def test_classes_that_are_not_there_or_ignored_get_0_and_all_is_finite(kind):
    found = class_weights(kind, records(), 6, [5])
    assert found[2] == found[5] == 0
    assert all(0 < found[c] < np.inf for c in (0, 1, 3, 4))


@pytest.mark.parametrize("kind", ["inverse", "median", "effective"])
def test_a_database_of_one_class_weighs_it_alone(kind):
    assert class_weights(kind, [np.ones((1, 4, 4), np.uint8)], 3, []) == pytest.approx([0, 1, 0])
    assert class_weights(kind, [np.array([[[1, 9]]])], 3, [])[1] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["none", "inverse", "median", "effective"])
def test_a_database_without_labelled_pixels_is_refused(kind):
    with pytest.raises(UserError, match="no pixel of the database is labelled with a class that counts"):
        class_weights(kind, [np.full((1, 4, 4), 255, np.uint8), np.full((1, 4, 4), 5, np.uint8)], 6, [5])


def test_without_weights_no_more_is_read_than_it_takes_to_find_a_label():
    read = []

    def one_by_one():
        for labels in records():
            read.append(1)
            yield labels

    assert class_weights("none", one_by_one(), 6, [5]) is None
    assert len(read) == 1


# ------------------------------------------------------------------------------------------------- numbers of the losses


def test_losses_take_the_numbers_of_their_papers():
    logits, target = batch(7)
    p, y = pixels(logits, target)
    by_hand = np.mean([-0.25 * (1 - q[c]) ** 3 * np.log(q[c]) for q, c in zip(p, y, strict=True)])
    assert float(Loss("focal(gamma=3, alpha=0.25)")(logits, target)) == pytest.approx(by_hand, rel=1e-5)
    found = float(Loss("tversky(alpha=0.5, beta=0.5)")(logits, target))
    assert found == pytest.approx(float(Loss("dice")(logits, target)), rel=1e-5)
    both = Loss("0.5 focal(gamma=0) + 2 tversky(beta=0.9)")(logits, target)
    assert float(both) == pytest.approx(0.5 * numpy_ce(p, y) + 2 * numpy_tversky(p, y, 0.3, 0.9), rel=1e-5)


def test_of_two_classes_alpha_weighs_the_second_against_the_first():
    logits, target = batch(8, classes=2)
    p, y = pixels(logits, target)
    by_hand = np.mean([-(0.75 if c == 0 else 0.25) * (1 - q[c]) ** 2 * np.log(q[c]) for q, c in zip(p, y, strict=True)])
    assert float(Loss("focal(gamma=2, alpha=0.25)")(logits, target)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("focal(gama=2)", "'focal' does not read 'gama'; it reads gamma, alpha. Did you mean 'gamma'?"),
        ("focal(gamma)", "'gamma' are no numbers of 'focal'"),
        ("focal(gamma=-1)", "'focal' needs a number, 0 or more, for 'gamma'"),
        ("dice(beta=1)", "'dice' does not read 'beta'; it reads nothing"),
    ],
)
def test_numbers_that_a_loss_does_not_read_are_refused(text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Loss(text)
