"""The loops over voxels, compiled by numba. ``fallback.py`` has the same functions without it.

Compiled code is cached beside this file, or in numba's cache folder where that cannot be written.
"""

from functools import cache

import numpy as np
from numba import njit

from mist_core.metrics import fallback

compiled = njit(cache=True, nogil=True)

FAR = 65535  # steps to a target in a row that has none
REACH = 16  # steps, across rows, within which targets are searched one by one


@compiled
def joint_histogram(reference, prediction, n):
    """How often every pair of labels occurs, (n, n), and the box around each label.

    Label maps are (Z, Y, X), of one unsigned type, with labels below ``n``; 0 is background. The
    boxes are ``low`` and ``high``, (n, 3): voxels from ``low`` to before ``high`` in either map. A
    label that does not occur has ``high`` 0.
    """
    n_z, n_y, n_x = reference.shape
    flat_r, flat_p = reference.ravel(), prediction.ravel()
    per_word = 8 // reference.itemsize  # background is skipped by so many voxels at once
    n_words = flat_r.size // per_word
    words_r = flat_r[: n_words * per_word].view(np.uint64)
    words_p = flat_p[: n_words * per_word].view(np.uint64)
    histogram = np.zeros((n, n), np.int64)
    low = np.full((n, 3), np.iinfo(np.int64).max)
    high = np.zeros((n, 3), np.int64)
    for row in range(n_z * n_y):
        i, end = row * n_x, (row + 1) * n_x
        while i < end:
            if i % per_word == 0 and i + per_word <= end:
                word = i // per_word
                if words_r[word] == 0 and words_p[word] == 0:
                    i += per_word
                    continue
            a, b, first = flat_r[i], flat_p[i], i
            i += 1
            if a == 0 and b == 0:
                continue
            while i < end and flat_r[i] == a and flat_p[i] == b:
                i += 1
            histogram[a, b] += i - first
            z, y, x = row // n_y, row % n_y, first - row * n_x
            _grow(low, high, a, z, y, x, x + i - first)
            _grow(low, high, b, z, y, x, x + i - first)
    histogram[0, 0] = flat_r.size - histogram.sum()
    return histogram, low, high


@compiled
def _grow(low, high, label, z, y, x, x_end):
    """Let the box around a label hold a run of voxels."""
    if label == 0:
        return
    low[label, 0] = min(low[label, 0], z)
    low[label, 1] = min(low[label, 1], y)
    low[label, 2] = min(low[label, 2], x)
    high[label, 0] = max(high[label, 0], z + 1)
    high[label, 1] = max(high[label, 1], y + 1)
    high[label, 2] = max(high[label, 2], x_end)


@compiled
def border(codes):
    """Flat indices, ascending, of the codes that are neither 0 nor 255, and these codes."""
    flat = codes.ravel()
    n_words = flat.size // 8
    words = flat[: n_words * 8].view(np.uint64)
    everywhere = ~np.uint64(0)
    count = 0
    for i in range(flat.size):
        count += 0 < flat[i] < 255
    points, kinds = np.empty(count, np.int64), np.empty(count, np.uint8)
    n = 0
    for word in range(n_words + 1):
        if word < n_words and (words[word] == 0 or words[word] == everywhere):
            continue
        for i in range(word * 8, min(word * 8 + 8, flat.size)):
            if 0 < flat[i] < 255:
                points[n], kinds[n] = i, flat[i]
                n += 1
    return points, kinds


def nearest(points, targets, shape, spacing_mm, limit_mm=np.inf):
    """Distance in mm from every point to the nearest target; infinite unless below the limit.

    Points are flat indices, ascending, of an array (Z, Y, X). Exact: of every row that may hold the
    nearest target, the distance along the row is looked up, rows in the order of their own
    distance. For points that are farther than ``REACH`` steps, lower envelopes of parabolas are
    taken instead (Felzenszwalb & Huttenlocher, Theory of Computing 8 (2012) 415-428).
    """
    if points.size == 0 or targets.size == 0:
        return np.full(points.size, np.inf)
    if shape[2] >= FAR:  # steps along a row are kept in 16 bits
        return fallback.nearest(points, targets, shape, spacing_mm, limit_mm)
    reach_mm = REACH * min(spacing_mm[:2])
    z, y = (min(int(reach_mm / s), n - 1) for s, n in zip(spacing_mm[:2], shape[:2], strict=True))
    steps, costs = _rows_around(z, y, spacing_mm[:2], reach_mm)
    rows = _row_distances(targets, shape)
    squares, far = _search(points, rows, steps, costs, spacing_mm[2], limit_mm**2)
    if far.size:
        far = far[np.argsort(points[far] % shape[2], kind="stable")]
        _by_planes(points, far, rows, spacing_mm, squares)
    distances = np.sqrt(squares)
    distances[squares >= limit_mm**2] = np.inf
    return distances


@cache
def _rows_around(most_z, most_y, spacing_mm, reach_mm):
    """Steps (n, 2) to the rows around one, nearest first, and their squared distances in mm2.

    They are those of up to ``most_z`` and ``most_y`` steps within the reach. Its square comes last.
    """
    z, y = np.mgrid[-most_z : most_z + 1, -most_y : most_y + 1].reshape(2, -1)
    costs = (z * spacing_mm[0]) ** 2 + (y * spacing_mm[1]) ** 2
    order = np.argsort(costs, kind="stable")
    order = order[costs[order] <= reach_mm**2]
    return np.stack([z, y], axis=1)[order], np.append(costs[order], reach_mm**2)


@compiled
def _row_distances(targets, shape):
    """Steps from every voxel to the nearest target in its row, (Z, Y, X) uint16."""
    n_z, n_y, n_x = shape
    distances = np.empty((n_z * n_y, n_x), np.uint16)
    i = 0
    for row in range(n_z * n_y):
        out, start = distances[row], row * n_x
        if i == targets.size or targets[i] >= start + n_x:
            out[:] = FAR
            continue
        before = targets[i] - start
        for x in range(before + 1):
            out[x] = before - x
        i += 1
        while i < targets.size and targets[i] < start + n_x:
            after = targets[i] - start
            middle = (before + after + 1) // 2
            for x in range(before + 1, middle):
                out[x] = x - before
            for x in range(middle, after + 1):
                out[x] = after - x
            before = after
            i += 1
        for x in range(before + 1, n_x):
            out[x] = x - before
    return distances.reshape((n_z, n_y, n_x))


@compiled
def _search(points, rows, steps, costs, step_x, limit):
    """Squared distances up to ``limit``, and the numbers of the points that are not settled."""
    n_z, n_y, n_x = rows.shape
    squares, far = np.empty(points.size), np.empty(points.size, np.int64)
    n_far = 0
    for i in range(points.size):
        row, x = points[i] // n_x, points[i] % n_x
        z, y = row // n_y, row % n_y
        best = limit
        for k in range(steps.shape[0]):
            if costs[k] >= best:
                break
            to_z, to_y = z + steps[k, 0], y + steps[k, 1]
            if 0 <= to_z < n_z and 0 <= to_y < n_y:
                along = rows[to_z, to_y, x]
                if along < FAR:
                    best = min(best, costs[k] + (along * step_x) ** 2)
        squares[i] = best
        if best > costs[-1]:
            far[n_far] = i
            n_far += 1
    return squares, far[:n_far]


@compiled
def _by_planes(points, far, rows, spacing_mm, squares):
    """Lower the squares of the points ``far``, in the order of their x, to what they are."""
    n_z, n_y, n_x = rows.shape
    step_z, step_y, step_x = spacing_mm
    along, across = np.empty(n_y), np.empty((n_z, n_y))
    vertices, starts = np.empty(n_y, np.int64), np.empty(n_y)
    plane = -1
    for i in far:
        row, x = points[i] // n_x, points[i] % n_x
        if x != plane:
            plane = x
            for z in range(n_z):
                for y in range(n_y):
                    steps = rows[z, y, x]
                    along[y] = np.inf if steps == FAR else (steps * step_x) ** 2
                _lower_envelope(along, step_y, vertices, starts, across[z])
        z, y = row // n_y, row % n_y
        for other in range(n_z):
            squares[i] = min(squares[i], across[other, y] + ((z - other) * step_z) ** 2)


@compiled
def _lower_envelope(heights, step, vertices, starts, out):
    """The lowest, at every place, of the parabolas that stand on ``heights``."""
    n = -1  # the last parabola of the envelope; it is the lowest from starts[n] on
    for place in range(heights.size):
        if heights[place] == np.inf:
            continue
        start = -np.inf
        while n >= 0:
            other = vertices[n]
            rise = (heights[place] - heights[other]) / step**2
            start = (rise + place**2 - other**2) / (2 * (place - other))
            if start > starts[n]:
                break
            n -= 1
            start = -np.inf
        n += 1
        vertices[n], starts[n] = place, start
    if n < 0:
        out[:] = np.inf
        return
    k = 0
    for place in range(heights.size):
        while k < n and starts[k + 1] < place:
            k += 1
        out[place] = heights[vertices[k]] + ((place - vertices[k]) * step) ** 2


@compiled
def connected_components(mask, connectivity):
    """Number the components of a mask (Z, Y, X) of bytes: (numbers, low, high, sizes).

    Voxels touch by 6 faces, by 18 edges, or by 26 corners too. Numbers are 1, 2, ... in the order
    of the first voxels. Row n of the boxes, voxels from ``low`` to before ``high``, and of the
    sizes is of component n; row 0 is empty. Runs of voxels along rows are joined by union-find.
    """
    n_z, n_y, _ = mask.shape
    first_run, starts, ends = _runs(mask)
    parents = np.arange(starts.size)
    for row in range(n_z * n_y):
        z, y = row // n_y, row % n_y
        for back_z, back_y in ((0, 1), (1, 0), (1, 1), (1, -1)):
            diagonal = back_z != 0 and back_y != 0
            if z < back_z or not 0 <= y - back_y < n_y or (diagonal and connectivity == 6):
                continue
            reach = 1 if connectivity == 26 or (connectivity == 18 and not diagonal) else 0
            other = row - back_z * n_y - back_y
            _join(first_run, starts, ends, parents, row, other, reach)
    return _painted(mask.shape, first_run, starts, ends, parents)


@compiled
def _runs(mask):
    """Of each row the number of its first run, and where runs start and end along it."""
    n_z, n_y, n_x = mask.shape
    rows = mask.reshape((n_z * n_y, n_x))
    count = 0
    for row in range(rows.shape[0]):
        line = rows[row]
        count += line[0] != 0
        for x in range(1, n_x):
            count += (line[x] != 0) & (line[x - 1] == 0)
    first_run = np.empty(rows.shape[0] + 1, np.int64)
    starts, ends = np.empty(count, np.int64), np.empty(count, np.int64)
    n = 0
    for row in range(rows.shape[0]):
        first_run[row] = n
        line = rows[row]
        filled = 0
        for x in range(n_x):
            filled |= line[x]
        x = n_x if filled == 0 else 0
        while x < n_x:
            if line[x] == 0:
                x += 1
                continue
            starts[n] = x
            while x < n_x and line[x] != 0:
                x += 1
            ends[n] = x
            n += 1
    first_run[rows.shape[0]] = n
    return first_run, starts, ends


@compiled
def _join(first_run, starts, ends, parents, row, other, reach):
    """Join the runs of two rows that overlap, or do with ``reach`` voxels more."""
    i, j = first_run[row], first_run[other]
    while i < first_run[row + 1] and j < first_run[other + 1]:
        if starts[i] < ends[j] + reach and starts[j] < ends[i] + reach:
            a, b = _root(parents, i), _root(parents, j)
            parents[max(a, b)] = min(a, b)
        if ends[i] < ends[j]:
            i += 1
        else:
            j += 1


@compiled
def _root(parents, i):
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@compiled
def _painted(shape, first_run, starts, ends, parents):
    """The numbers of the components in an array, and their boxes and sizes."""
    n_z, n_y, n_x = shape
    numbers = np.zeros((n_z, n_y, n_x), np.uint32)
    of_run = np.empty(parents.size, np.int64)
    n = 0
    for i in range(parents.size):
        if parents[i] == i:
            n += 1
            of_run[i] = n
        else:
            of_run[i] = of_run[_root(parents, i)]  # the root is the first of its runs
    low = np.full((n + 1, 3), np.iinfo(np.int64).max)
    high, sizes = np.zeros((n + 1, 3), np.int64), np.zeros(n + 1, np.int64)
    for row in range(n_z * n_y):
        for i in range(first_run[row], first_run[row + 1]):
            number, z, y = of_run[i], row // n_y, row % n_y
            numbers[z, y, starts[i] : ends[i]] = number
            sizes[number] += ends[i] - starts[i]
            _grow(low, high, number, z, y, starts[i], ends[i])
    return numbers, low, high, sizes


@compiled
def dilated(mask, iterations):
    """A mask (Z, Y, X) of bytes, 0 or 1, with the voxels across faces and edges, so many times."""
    for _ in range(iterations):
        mask = _dilated_once(mask)
    return mask


@compiled
def _dilated_once(mask):
    n_z, n_y, n_x = mask.shape
    out, spread = np.zeros_like(mask), np.zeros_like(mask)  # spread: along rows
    filled = np.zeros((n_z, n_y), np.bool_)
    for z in range(n_z):
        for y in range(n_y):
            line, wide = mask[z, y], spread[z, y]
            some = 0
            for x in range(n_x):
                some |= line[x]
            if some == 0:
                continue
            filled[z, y] = True
            wide[:] = line
            for x in range(1, n_x):
                wide[x] |= line[x - 1]
            for x in range(n_x - 1):
                wide[x] |= line[x + 1]
    for z in range(n_z):
        for y in range(n_y):
            to = out[z, y]
            for by_z in range(max(z - 1, 0), min(z + 2, n_z)):
                for by_y in range(max(y - 1, 0), min(y + 2, n_y)):
                    if not filled[by_z, by_y]:
                        continue
                    corner = by_z != z and by_y != y  # of which only the voxel itself is near
                    line = mask[by_z, by_y] if corner else spread[by_z, by_y]
                    for x in range(n_x):
                        to[x] |= line[x]
    return out
