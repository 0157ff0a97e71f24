// Three linked planes of a case. A page has, for each, <section class="viewer"> around
// <script type="application/json" class="scene"> as mist_core.report.viewer.scene makes it.
// Voxels are [z, y, x] in LPS everywhere: x grows to the left, y to posterior, z to superior.
(() => {
  "use strict";

  const PLANES = [
    { name: "Axial", across: 0, columns: 2, rows: 1, upward: false, sides: "RLAP" },
    { name: "Coronal", across: 1, columns: 2, rows: 0, upward: true, sides: "RLSI" },
    { name: "Sagittal", across: 2, columns: 1, rows: 0, upward: true, sides: "APSI" },
  ];
  const ENDS = [["S", "I"], ["P", "A"], ["L", "R"]]; // of z, y and x, for values above and below 0
  const [RIGHT, PREDICTED, MISSED, CONFUSED] = [1, 2, 3, 4];
  const DEFAULTS = {
    reference: true, prediction: true, errors: false, filled: false,
    opacity: 75, brightness: 0, contrast: 0,
  };
  const ZOOMS = [1, 2, 4];
  const HELP = "Click or drag in a slice to move the cross. With a slice in focus, arrow keys move "
    + "it, page keys and the wheel change the slice, + and − or a double click zoom.";

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // Elements. Words are set as text, so that no name can be markup.
  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // Voxels of a scene.

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function greyOf(scene) {
    const [depth, height, width] = scene.size;
    const sheet = new Image();
    sheet.src = scene.grey.src;
    await sheet.decode();
    const canvas = element("canvas", { width: scene.grey.columns * width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const grey = new Uint8Array(depth * height * width);
    for (let z = 0; z < depth; z++) {
      const tile = z % scene.grey.columns;
      if (tile === 0) context.drawImage(sheet, 0, -height * (z / scene.grey.columns));
      const pixels = context.getImageData(tile * width, 0, width, height).data;
      for (let n = 0; n < height * width; n++) grey[z * height * width + n] = pixels[4 * n];
    }
    return grey;
  }

  async function voxelsOf(scene) {
    const [grey, labels] = await Promise.all([greyOf(scene), inflated(scene.labels)]);
    const count = grey.length;
    return { grey, reference: labels.subarray(0, count), prediction: labels.subarray(count) };
  }

  // What a voxel is, by the classes of its groups; as in mist_core.report.comparison.states.
  function stateOf(reference, prediction) {
    const missed = reference.some((one) => !prediction.includes(one));
    const invented = prediction.some((one) => !reference.includes(one));
    if (missed && invented) return CONFUSED;
    if (missed) return MISSED;
    if (invented) return PREDICTED;
    return reference.length ? RIGHT : 0;
  }

  function sliceOf(volume, size, plane, index) {
    const strides = [size[1] * size[2], size[2], 1];
    const [width, height] = [size[plane.columns], size[plane.rows]];
    const found = new Uint8Array(width * height);
    for (let row = 0, n = 0; row < height; row++) {
      const line = plane.upward ? height - 1 - row : row;
      let at = index * strides[plane.across] + line * strides[plane.rows];
      for (let column = 0; column < width; column++, at += strides[plane.columns]) {
        found[n++] = volume[at];
      }
    }
    return found;
  }

  // Closed lines around what is inside, along the edges of its pixels.
  function outlines(inside, width, height) {
    const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside[y * width + x];
    const corner = (x, y) => y * (width + 1) + x;
    const next = new Map(); // from a corner of a pixel to those that edges lead to, clockwise
    const edge = (from, to) => {
      if (next.has(from)) next.get(from).push(to);
      else next.set(from, [to]);
    };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!inside[y * width + x]) continue;
        if (!at(x, y - 1)) edge(corner(x, y), corner(x + 1, y));
        if (!at(x + 1, y)) edge(corner(x + 1, y), corner(x + 1, y + 1));
        if (!at(x, y + 1)) edge(corner(x + 1, y + 1), corner(x, y + 1));
        if (!at(x - 1, y)) edge(corner(x, y + 1), corner(x, y));
      }
    }
    const lines = [];
    for (const [first, ends] of next) {
      while (ends.length) {
        const line = [];
        let [from, step] = [first, 0];
        do {
          const to = next.get(from).pop();
          if (to - from !== step) line.push([from % (width + 1), Math.floor(from / (width + 1))]);
          [from, step] = [to, to - from];
        } while (from !== first);
        lines.push(line);
      }
    }
    return lines;
  }

  function rgb(colour) {
    return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
  }

  function picture(width, height, paint) {
    const canvas = element("canvas", { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    paint(image.data);
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // One viewer: state, then drawing, then what the reader does.
  function view(section, scene) {
    const { size, spacing } = scene;
    const settings = { ...DEFAULTS };
    const cross = [...scene.start];
    const focus = [...scene.start]; // the middle of what is seen when enlarged
    let zoom = 1;
    let voxels = null;
    let problem = "";
    let waiting = false;
    const classColours = new Map(scene.drawn.map((number, place) => [number, scene.colours[place]]));
    const stateColours = [null, ...scene.states].map((colour) => colour && rgb(colour));
    const states = scene.members.map((one) => scene.members.map((other) => stateOf(one, other)));

    // Where a voxel is in the file, (x, y, z) as its header counts, and in the patient.
    const whole = (axis, index) => scene.first[axis] + index * scene.steps[axis];
    function inFile(voxel) {
      const found = [0, 0, 0];
      scene.file.order.forEach((source, axis) => {
        const index = whole(axis, voxel[axis]);
        found[source] = scene.file.flips[axis] ? scene.file.size[axis] - 1 - index : index;
      });
      return found.reverse();
    }
    function inPatient(voxel) {
      return scene.origin.map((start, world) => scene.direction[world].reduce(
        (sum, cosine, axis) => sum + cosine * spacing[axis] * voxel[axis], start,
      )).reverse();
    }
    const sliceName = (axis, index) => `${whole(axis, index) + 1} of ${scene.file.size[axis]}`;
    const namesOf = (group) => (
      scene.members[group].map((number) => scene.classes[number]).join(", ") || "none"
    );

    function words() {
      const mm = inPatient(cross).map(
        (value, axis) => `${ENDS[axis][value < 0 ? 1 : 0]} ${Math.abs(value).toFixed(1)}`,
      ).reverse();
      const at = (cross[0] * size[1] + cross[1]) * size[2] + cross[2];
      const found = voxels
        ? `reference: ${namesOf(voxels.reference[at])} · prediction: ${namesOf(voxels.prediction[at])}`
        : "loading";
      return `voxel (${inFile(cross).join(", ")}) · ${mm.join(", ")} mm · ${found}`;
    }

    // Drawing.

    function placed(plane, canvas) {
      const [width, height] = [size[plane.columns], size[plane.rows]];
      const [across, down] = [spacing[plane.columns], spacing[plane.rows]];
      const fit = Math.min(canvas.width / (width * across), canvas.height / (height * down)) * zoom;
      const along = (length, n, edge, middle) => (n * edge <= length
        ? (length - n * edge) / 2
        : clamp(length / 2 - (middle + 0.5) * edge, length - n * edge, 0));
      const row = plane.upward ? height - 1 - focus[plane.rows] : focus[plane.rows];
      const [edgeX, edgeY] = [fit * across, fit * down]; // pixels of a voxel
      return {
        width, height, edgeX, edgeY,
        left: along(canvas.width, width, edgeX, focus[plane.columns]),
        top: along(canvas.height, height, edgeY, row),
      };
    }

    function greyPicture(values, width, height) {
      const slope = 4 ** (settings.contrast / 100);
      const table = Uint8ClampedArray.from(
        { length: 256 }, (_, n) => (n - 128) * slope + 128 + settings.brightness,
      );
      return picture(width, height, (data) => {
        for (let n = 0; n < values.length; n++) {
          data[4 * n] = data[4 * n + 1] = data[4 * n + 2] = table[values[n]];
          data[4 * n + 3] = 255;
        }
      });
    }

    function errorPicture(reference, prediction, width, height) {
      return picture(width, height, (data) => {
        for (let n = 0; n < reference.length; n++) {
          let state = states[reference[n]][prediction[n]];
          if (!state) continue;
          if (state === CONFUSED) state = (n + Math.floor(n / width)) % 2 ? MISSED : PREDICTED;
          data.set(stateColours[state], 4 * n);
          data[4 * n + 3] = 255;
        }
      });
    }

    function classPicture(groups, width, height) {
      // Of classes within others, the last is seen.
      const colours = scene.members.map((numbers) => {
        const last = numbers.findLast((number) => classColours.has(number));
        return last === undefined ? null : rgb(classColours.get(last));
      });
      return picture(width, height, (data) => {
        for (let n = 0; n < groups.length; n++) {
          if (!colours[groups[n]]) continue;
          data.set(colours[groups[n]], 4 * n);
          data[4 * n + 3] = 255;
        }
      });
    }

    function drawContours(context, groups, place, dashed) {
      const there = new Set([...new Set(groups)].flatMap((group) => scene.members[group]));
      const seen = scene.drawn.filter((number) => there.has(number));
      const unit = window.devicePixelRatio || 1;
      context.setLineDash(dashed ? [5 * unit, 4 * unit] : []);
      context.lineJoin = "round";
      for (const number of seen) {
        const has = scene.members.map((numbers) => numbers.includes(number));
        const inside = Uint8Array.from(groups, (group) => has[group]);
        const path = new Path2D();
        for (const line of outlines(inside, place.width, place.height)) {
          line.forEach(([x, y], n) => path[n ? "lineTo" : "moveTo"](
            place.left + x * place.edgeX, place.top + y * place.edgeY,
          ));
          path.closePath();
        }
        for (const [width, colour] of [[3.4, "rgba(0, 0, 0, 0.65)"], [2, classColours.get(number)]]) {
          context.lineWidth = width * unit;
          context.strokeStyle = colour;
          context.stroke(path);
        }
      }
      context.setLineDash([]);
    }

    function drawLetters(context, plane) {
      const { width, height } = context.canvas;
      const unit = window.devicePixelRatio || 1;
      const middles = [["left", 5 * unit, height / 2], ["right", width - 5 * unit, height / 2],
        ["center", width / 2, 12 * unit], ["center", width / 2, height - 12 * unit]];
      context.font = `600 ${13 * unit}px system-ui, sans-serif`;
      context.textBaseline = "middle";
      context.lineWidth = 3 * unit;
      context.lineJoin = "round";
      middles.forEach(([align, x, y], side) => {
        context.textAlign = align;
        context.strokeStyle = "#000";
        context.strokeText(plane.sides[side], x, y);
        context.fillStyle = "#fff";
        context.fillText(plane.sides[side], x, y);
      });
    }

    // All but the cross, which moves most often.
    function drawStill(plane, context) {
      const index = cross[plane.across];
      const place = placed(plane, context.canvas);
      const { width, height } = place;
      const [grey, reference, prediction] = ["grey", "reference", "prediction"].map(
        (name) => sliceOf(voxels[name], size, plane, index),
      );
      const put = (layer) => context.drawImage(
        layer, place.left, place.top, width * place.edgeX, height * place.edgeY,
      );
      context.fillStyle = "#000";
      context.fillRect(0, 0, context.canvas.width, context.canvas.height);
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      put(greyPicture(grey, width, height));
      if (settings.errors) { // white ones are seen on bright tissue, too
        context.fillStyle = "rgba(0, 0, 0, 0.5)";
        context.fillRect(0, 0, context.canvas.width, context.canvas.height);
      }
      context.imageSmoothingEnabled = false;
      context.globalAlpha = settings.opacity / 100;
      if (settings.filled && settings.reference) put(classPicture(reference, width, height));
      if (settings.filled && settings.prediction) put(classPicture(prediction, width, height));
      if (settings.errors) put(errorPicture(reference, prediction, width, height));
      context.globalAlpha = 1;
      if (!settings.filled && settings.reference) drawContours(context, reference, place, false);
      if (!settings.filled && settings.prediction) drawContours(context, prediction, place, true);
    }

    function drawCross(plane, context) {
      const place = placed(plane, context.canvas);
      const row = plane.upward ? place.height - 1 - cross[plane.rows] : cross[plane.rows];
      const x = Math.round(place.left + (cross[plane.columns] + 0.5) * place.edgeX);
      const y = Math.round(place.top + (row + 0.5) * place.edgeY);
      const unit = Math.round(window.devicePixelRatio || 1);
      const gap = 7 * unit; // what is under the cross stays visible
      const { width, height } = context.canvas;
      for (const [colour, line] of [["rgba(0, 0, 0, 0.5)", 3 * unit], ["#fff", unit]]) {
        const half = Math.floor(line / 2);
        context.fillStyle = colour;
        context.fillRect(0, y - half, x - gap, line);
        context.fillRect(x + gap, y - half, width, line);
        context.fillRect(x - half, 0, line, y - gap);
        context.fillRect(x - half, y + gap, line, height);
      }
    }

    function draw() {
      waiting = false;
      for (const part of parts) {
        const { plane, canvas, still, slider } = part;
        const index = cross[plane.across];
        slider.value = index;
        slider.setAttribute("aria-valuetext", `slice ${sliceName(plane.across, index)}`);
        part.number.textContent = sliceName(plane.across, index);
        if (!voxels || !canvas.width) continue;
        const key = JSON.stringify([index, settings, zoom, focus, canvas.width, canvas.height]);
        if (key !== part.key) {
          [still.width, still.height] = [canvas.width, canvas.height];
          drawStill(plane, still.getContext("2d"));
          part.key = key;
        }
        const context = canvas.getContext("2d");
        context.drawImage(still, 0, 0);
        drawCross(plane, context);
        drawLetters(context, plane);
      }
      readout.textContent = problem || words();
    }

    function redraw() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(draw);
    }

    // What the reader does.

    function moveTo(voxel) {
      voxel.forEach((place, axis) => { cross[axis] = clamp(Math.floor(place), 0, size[axis] - 1); });
      if (zoom > 1 && parts.some((part) => !isSeen(part))) cross.forEach((n, axis) => { focus[axis] = n; });
      redraw();
    }

    function isSeen({ plane, canvas }) {
      const place = placed(plane, canvas);
      const row = plane.upward ? place.height - 1 - cross[plane.rows] : cross[plane.rows];
      const x = place.left + (cross[plane.columns] + 0.5) * place.edgeX;
      const y = place.top + (row + 0.5) * place.edgeY;
      return x >= 0 && y >= 0 && x <= canvas.width && y <= canvas.height;
    }

    function step(axis, by) {
      const voxel = [...cross];
      voxel[axis] += by;
      moveTo(voxel);
    }

    function enlarge(times) {
      zoom = times;
      cross.forEach((n, axis) => { focus[axis] = n; });
      zoomButton.textContent = `Zoom ${zoom}×`;
      redraw();
    }
    const nextZoom = () => enlarge(ZOOMS[(ZOOMS.indexOf(zoom) + 1) % ZOOMS.length]);
    const zoomBy = (by) => enlarge(ZOOMS[clamp(ZOOMS.indexOf(zoom) + by, 0, ZOOMS.length - 1)]);

    function pointed(event, { plane, canvas }) {
      const place = placed(plane, canvas);
      const box = canvas.getBoundingClientRect();
      const x = (event.clientX - box.left) * (canvas.width / box.width);
      const y = (event.clientY - box.top) * (canvas.height / box.height);
      const row = (y - place.top) / place.edgeY;
      const voxel = [...cross];
      voxel[plane.columns] = (x - place.left) / place.edgeX;
      voxel[plane.rows] = plane.upward ? place.height - row : row;
      moveTo(voxel);
    }

    function pressed(event, { plane }) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const far = event.shiftKey ? 10 : 1;
      const down = plane.upward ? -far : far;
      const moves = {
        ArrowLeft: () => step(plane.columns, -far),
        ArrowRight: () => step(plane.columns, far),
        ArrowUp: () => step(plane.rows, -down),
        ArrowDown: () => step(plane.rows, down),
        PageUp: () => step(plane.across, far),
        PageDown: () => step(plane.across, -far),
        "+": () => zoomBy(1),
        "-": () => zoomBy(-1),
      };
      if (!moves[event.key]) return;
      event.preventDefault();
      moves[event.key]();
    }

    function listen(part) {
      const { canvas, plane } = part;
      canvas.addEventListener("pointerdown", (event) => {
        canvas.focus({ preventScroll: true });
        canvas.setPointerCapture(event.pointerId);
        // A finger may be about to scroll the page.
        if (event.pointerType !== "touch") pointed(event, part);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (canvas.hasPointerCapture(event.pointerId)) pointed(event, part);
      });
      canvas.addEventListener("pointerup", (event) => {
        if (event.pointerType === "touch") pointed(event, part);
      });
      canvas.addEventListener("dblclick", nextZoom);
      canvas.addEventListener("keydown", (event) => pressed(event, part));
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas || event.ctrlKey || !event.deltaY) return;
        event.preventDefault();
        step(plane.across, event.deltaY < 0 ? 1 : -1);
      }, { passive: false });
    }

    // The page.

    function planePart(plane) {
      const mm = [size[plane.columns] * spacing[plane.columns], size[plane.rows] * spacing[plane.rows]];
      const canvas = element("canvas", { tabIndex: 0 });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `${plane.name} slice of case ${scene.id}. ${HELP}`);
      canvas.style.aspectRatio = `${mm[0]} / ${mm[1]}`;
      const number = element("span");
      const slider = element("input", {
        type: "range", min: 0, max: size[plane.across] - 1, step: 1, value: cross[plane.across],
      });
      slider.addEventListener("input", () => step(plane.across, slider.valueAsNumber - cross[plane.across]));
      const figure = element(
        "div", { className: "plane" }, canvas,
        element("label", {}, element("span", {}, `${plane.name} `, number), slider),
      );
      figure.style.flexGrow = mm[0];
      const part = { plane, canvas, slider, number, figure, still: element("canvas"), key: "" };
      listen(part);
      return part;
    }

    function checkbox(name, text) {
      const box = element("input", { type: "checkbox", checked: settings[name] });
      box.addEventListener("change", () => { settings[name] = box.checked; redraw(); });
      inputs.set(name, box);
      return element("label", {}, box, ` ${text}`);
    }

    function range(name, text, min, max) {
      const slider = element("input", { type: "range", min, max, value: settings[name] });
      slider.addEventListener("input", () => { settings[name] = slider.valueAsNumber; redraw(); });
      inputs.set(name, slider);
      return element("label", {}, `${text} `, slider);
    }

    function button(text, act) {
      const made = element("button", { type: "button", textContent: text });
      made.addEventListener("click", act);
      return made;
    }

    function reset() {
      Object.assign(settings, DEFAULTS);
      for (const [name, input] of inputs) {
        if (input.type === "checkbox") input.checked = settings[name];
        else input.value = settings[name];
      }
      scene.start.forEach((n, axis) => { cross[axis] = n; });
      enlarge(1);
    }

    function swatch(text, ...colours) {
      const box = element("i");
      box.style.background = colours.length > 1
        ? `repeating-linear-gradient(135deg, ${colours[0]} 0 3px, ${colours[1]} 3px 6px)` : colours[0];
      return element("li", {}, box, text);
    }

    function legend() {
      const [right, predicted, missed] = scene.states;
      const list = element("ul", { className: "legend" });
      list.append(...scene.drawn.map((number) => swatch(scene.classes[number], classColours.get(number))));
      list.append(
        swatch("right (TP)", right), swatch("only predicted (FP)", predicted),
        swatch("missed (FN)", missed),
      );
      if (scene.classes.length > 1) list.append(swatch("another class", predicted, missed));
      return list;
    }

    function note() {
      const [z, y, x] = scene.steps;
      const reduced = z * y * x === 1 ? "Every voxel is shown." : `Each ${x} × ${y} × ${z} voxels (x, y, z) `
        + "are shown as one: their mean grey value, and the label in their middle.";
      const [drawn, all] = [scene.drawn.length, scene.classes.length];
      const left = drawn < all ? ` Of ${all} classes, the ${drawn} most in error are drawn; errors are those of all.` : "";
      return element("p", { className: "note" }, `${HELP} ${reduced}${left}`);
    }

    const inputs = new Map();
    const parts = PLANES.map(planePart);
    const readout = element("output", { className: "readout" });
    const zoomButton = button("Zoom 1×", nextZoom);
    const controls = element(
      "div", { className: "controls" },
      checkbox("reference", "Reference (solid)"), checkbox("prediction", "Prediction (dashed)"),
      checkbox("errors", "Errors"), checkbox("filled", "Fill classes"),
      range("opacity", "Opacity", 10, 100), range("brightness", "Brightness", -128, 128),
      range("contrast", "Contrast", -100, 100), zoomButton, button("Reset", reset),
    );
    section.setAttribute("role", "group");
    section.setAttribute("aria-label", `Viewer of case ${scene.id}`);
    section.append(
      element("div", { className: "planes" }, ...parts.map((part) => part.figure)),
      readout, controls, legend(), note(),
    );
    section.classList.add("ready");

    const sizes = new ResizeObserver(() => {
      for (const { canvas } of parts) {
        const unit = window.devicePixelRatio || 1;
        const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.round(n * unit));
        if (canvas.width !== width) canvas.width = width;
        if (canvas.height !== height) canvas.height = height;
      }
      redraw();
    });
    parts.forEach(({ canvas }) => sizes.observe(canvas));
    redraw();

    return async () => {
      try {
        voxels = await voxelsOf(scene);
        section.classList.add("loaded");
        redraw();
      } catch (error) {
        problem = `This browser cannot show the volume (${error.message}).`;
        redraw();
      }
    };
  }

  // Volumes are unpacked when they come near, so that the page opens at once.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      loads.get(entry.target)();
    }
  }, { rootMargin: "600px" });
  const loads = new Map();
  for (const section of document.querySelectorAll("section.viewer")) {
    const scene = JSON.parse(section.querySelector("script.scene").textContent);
    loads.set(section, view(section, scene));
    near.observe(section);
  }
})();
