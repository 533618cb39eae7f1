"use strict";
// The report's page: theme, players, sorting, filtering, downloads. Without it every video has the browser's own controls and the tables are plain.
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- theme: as the system's, light, dark
  const theme = document.createElement("button");
  const themes = ["system", "light", "dark"];
  const remembered = (value) => {
    try { // file:// pages of some browsers have no storage
      if (value === undefined) return localStorage.getItem("pvtt-theme");
      localStorage.setItem("pvtt-theme", value);
    } catch { return null; }
  };
  const setTheme = (name) => {
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    theme.textContent = `theme: ${name}`;
    theme.value = name;
  };
  theme.type = "button";
  theme.id = "theme";
  theme.addEventListener("click", () => {
    const name = themes[(themes.indexOf(theme.value) + 1) % themes.length];
    setTheme(name);
    remembered(name);
  });
  setTheme(themes.includes(remembered()) ? remembered() : "system");
  one("nav").append(theme);

  // --- players: all videos of a card as one. Where they come nearly a frame apart, all go back to the last of them and on together.
  const players = new Map();
  const player = (card) => {
    const videos = all("video", card);
    const fps = Number(card.dataset.fps), frames = Number(card.dataset.frames);
    const play = one(".play", card), range = one("input[type=range]", card), said = one(".controls output", card);
    const again = one(".again", card), speed = one("select", card);
    let playing = false, ready = null, frame = 0, run = 0, late = 0;

    const say = (f) => {
      frame = f;
      range.value = f;
      range.setAttribute("aria-valuetext", `frame ${f + 1} of ${frames}`);
      said.textContent = `frame ${f + 1} of ${frames}`;
    };
    const once = (video, event) => new Promise((resolve) => video.addEventListener(event, resolve, { once: true }));
    const load = () => {
      ready ??= Promise.all(videos.map(async (video) => {
        video.preload = "auto";
        video.load();
        if (video.readyState < 2 && !video.error) await Promise.race([once(video, "loadeddata"), once(video, "error")]);
        if (video.error) said.textContent = "this browser cannot play the videos";
      }));
      return ready;
    };
    const seek = async (seconds) => {
      const waits = videos.map((video) => Promise.race([once(video, "seeked"), new Promise((r) => setTimeout(r, 1000))]));
      videos.forEach((video) => { video.currentTime = seconds; });
      await Promise.all(waits);
    };
    // The middle of a frame: at its beginning, rounding may show the one before.
    const show = async (f) => {
      stop();
      say(Math.max(0, Math.min(frames - 1, f)));
      const mine = ++run;
      await load();
      if (mine === run) await seek((frame + 0.5) / fps);
    };
    const stop = () => {
      playing = false;
      play.textContent = "play";
      videos.forEach((video) => video.pause());
    };
    const start = async () => {
      players.forEach((other) => other !== self && other.stop());
      playing = true;
      play.textContent = "stop";
      const mine = ++run;
      await load();
      if (!playing || mine !== run) return;
      await seek(frame >= frames - 1 ? 0 : frame / fps);
      if (!playing || mine !== run) return;
      await together();
      requestAnimationFrame(() => tick(mine));
    };
    const together = () => Promise.all(videos.map((video) => {
      video.playbackRate = Number(speed.value);
      return video.play().catch(() => {});
    }));
    // A machine that cannot decode them all in time shows them slower rather than apart.
    const slower = () => {
      late = 0;
      if (speed.selectedIndex < speed.options.length - 1) speed.selectedIndex += 1;
    };
    const tick = async (mine) => {
      if (!playing || mine !== run) return;
      const times = videos.map((video) => video.currentTime), least = Math.min(...times);
      say(Math.min(frames - 1, Math.floor(least * fps + 1e-3)));
      if (videos.every((video) => video.ended || video.currentTime >= frames / fps - 1e-3)) {
        if (again.checked) { frame = frames - 1; start(); } else { stop(); }
        return;
      }
      if (Math.max(...times) - least > 0.9 / fps) {
        videos.forEach((video) => video.pause());
        if (++late >= 3) slower();
        await seek(least);
        if (!playing || mine !== run) return;
        await together();
      } else { // those behind go a little faster
        videos.forEach((video, i) => { video.playbackRate = Number(speed.value) * Math.max(0.8, Math.min(1.2, 1 + 2 * (times[0] - times[i]))); });
      }
      requestAnimationFrame(() => tick(mine));
    };
    const self = {
      stop, show, toggle: () => { if (playing) { ++run; stop(); } else { start(); } },
      step: (by) => show(frame + by), first: () => show(0), last: () => show(frames - 1),
    };
    videos.forEach((video) => {
      video.removeAttribute("controls");
      video.loop = false;
      video.addEventListener("click", self.toggle);
      video.addEventListener("loadedmetadata", () => video.classList.toggle("small", video.videoWidth < 200));
    });
    play.addEventListener("click", self.toggle);
    one(".back", card).addEventListener("click", () => self.step(-1));
    one(".next", card).addEventListener("click", () => self.step(1));
    range.addEventListener("input", () => show(Number(range.value)));
    speed.addEventListener("change", () => videos.forEach((video) => { video.playbackRate = Number(speed.value); }));
    one(".controls", card).hidden = false;
    say(0);
    return self;
  };
  const cards = all(".card");
  cards.forEach((card) => { if (one("video", card)) players.set(card, player(card)); });
  all(".media img").forEach((image) => {
    const small = () => image.classList.toggle("small", image.naturalWidth < 200);
    if (image.complete) small(); else image.addEventListener("load", small);
  });

  // --- keys
  const typing = (element) => element.matches("input[type=search], select");
  const goTo = (by) => {
    const at = cards.indexOf(document.activeElement.closest?.(".card"));
    const from = at >= 0 ? at + by : Math.max(0, cards.findIndex((card) => card.getBoundingClientRect().bottom > 60));
    const card = cards[Math.max(0, Math.min(cards.length - 1, from))];
    if (!card) return;
    card.scrollIntoView({ block: "start" });
    card.focus({ preventScroll: true });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || typing(event.target)) return;
    if (event.key === "j" || event.key === "k") { goTo(event.key === "j" ? 1 : -1); event.preventDefault(); return; }
    const its = players.get(event.target.closest?.(".card"));
    if (!its || event.target.matches("input")) return; // the slider and the boxes have keys of their own
    const act = { ArrowLeft: () => its.step(-1), ArrowRight: () => its.step(1), Home: its.first, End: its.last }[event.key];
    if (event.key === " " && !event.target.matches("button, a, summary")) its.toggle();
    else if (act) act();
    else return;
    event.preventDefault();
  });

  // --- the table of edits
  const table = one("#edits"), body = one("tbody", table);
  const rows = () => all("tr", body);
  const heads = all("th", table);
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return cell.dataset.v === "" ? null : Number(cell.dataset.v);
    return cell.textContent.trim().toLowerCase() || null;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  heads.forEach((head, column) => one(".sort", head).addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const keyed = rows().map((row) => [keyOf(row, column), row]);
    // What was not measured stays last, either way.
    keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
  }));

  const status = one("#status"), text = one("#text"), count = one("#count");
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    const lines = rows();
    lines.forEach((row) => {
      row.hidden = (status.value !== "" && row.dataset.status !== status.value) || !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${lines.length} edits`;
  };
  status.addEventListener("change", filter);
  text.addEventListener("input", filter);
  one(".filters").hidden = false;

  const columns = one("#columns");
  columns.addEventListener("change", (event) => {
    const column = Number(event.target.value);
    all("tr", table).forEach((row) => { row.cells[column].hidden = !event.target.checked; });
    const boxes = all("input", columns);
    one("summary", columns).textContent = `Columns: ${boxes.filter((box) => box.checked).length} of ${boxes.length} shown`;
  });
  columns.hidden = false;

  // --- downloads: browsers follow a data: link only up to 2 MB, a blob of any size
  all("a[download]").forEach((link) => link.addEventListener("click", (event) => {
    const [head, data] = link.href.split(";base64,");
    const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    const blob = URL.createObjectURL(new Blob([bytes], { type: head.slice("data:".length) }));
    const copy = document.createElement("a");
    copy.href = blob;
    copy.download = link.download;
    copy.click();
    setTimeout(() => URL.revokeObjectURL(blob), 60000);
    event.preventDefault();
  }));
})();
