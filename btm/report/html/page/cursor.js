// A cursor over a drawing: the pointer moves it, and the arrow keys too; what it is on is told below.

/** Let a reader walk over `size` = [columns, rows] of `svg`. `at` finds [column, row] of a pointer,
 *  `show` marks a place and returns the nodes that tell of it. */
function walked(holder, told, size, at, show) {
  let place = null;
  const go = (next) => {
    place = next.map((value, axis) => Math.max(0, Math.min(size[axis] - 1, value)));
    told.replaceChildren(...show(...place));
  };
  holder.addEventListener('pointermove', (event) => {
    const next = at(event);
    if (next) go(next);
  });
  holder.addEventListener('focus', () => { if (!place) go([0, 0]); });
  holder.addEventListener('keydown', (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const [x, y] = place ?? [0, 0];
    if (event.key === 'Home') go([0, y]);
    else if (event.key === 'End') go([size[0] - 1, y]);
    else if (steps[event.key]) go([x + steps[event.key][0], y + steps[event.key][1]]);
    else return;
    event.preventDefault();
  });
  return go;
}
