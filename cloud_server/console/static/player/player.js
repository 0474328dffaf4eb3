// Plays a device's frames back from the log. Frames come by the batch (console/playback.py), pictures one
// by one, in order and ahead of their time; what is shown is always of one frame. A frame that has been
// asked for is waited for, so a slow server gives fewer frames a second, at their right time all the same.
import { Ahead } from "featherwire-player/ahead.js";
import { FrameLog } from "featherwire-player/log.js";
import { Pictures } from "featherwire-player/pictures.js";

const LONGEST_GAP_MS = 2000; // a pause in the log is played as this
const SLOW_MS = 700; // a wait that is longer is told
const LOOK_MS = 10000; // how often the end of the log is looked for
const STEPS = 10000; // of the scrubber
const JUMP_S = 10;
const START_S = 60; // before the end, where nothing else is asked for

export default {
  template: `
    <div ref="player" class="player" tabindex="-1" :aria-busy="seeking ? 'true' : 'false'">
      <figure class="stage">
        <div ref="frame" class="stage-frame" :style="{aspectRatio: width + ' / ' + height, maxWidth: widest}">
          <canvas ref="canvas" role="img" :aria-label="label"></canvas>
          <svg :viewBox="'0 0 ' + width + ' ' + height" aria-hidden="true">
            <image v-if="layers.masks && masks" :href="masks" :width="width" :height="height" preserveAspectRatio="none" />
            <g v-if="layers.landmarks" class="stage-points">
              <circle v-for="(p, i) in points" :key="i" :cx="p[0]" :cy="p[1]" :r="unit * 1.1" />
            </g>
            <g v-if="layers.boxes" :style="{fontSize: unit * 12 + 'px'}">
              <g v-for="(b, i) in shown ? shown.boxes : []" :key="i" class="stage-box">
                <rect :x="b.x" :y="b.y" :width="b.width" :height="b.height" :stroke="b.colour" />
                <text :x="b.x + unit * 4" :y="Math.max(b.y + unit * 14, unit * 14)">{{ b.label }}</text>
              </g>
            </g>
          </svg>
          <div v-if="note" class="stage-note">{{ note }}</div>
        </div>
        <figcaption class="num">
          <span class="player-caption">{{ shown ? shown.caption : '' }}</span>
          <span v-if="busy" class="stage-busy">{{ busy }}</span>
        </figcaption>
        <p class="player-found small">{{ shown ? shown.found : '' }}</p>
      </figure>
      <svg class="player-marks" :viewBox="'0 0 ' + of + ' 10'" preserveAspectRatio="none" aria-hidden="true">
        <rect v-for="m in cover" :key="'c' + m" class="player-cover" :x="m" y="7" width="1.02" height="3" />
        <rect v-for="m in marks" :key="'m' + m" class="player-mark" :x="m + 0.1" y="0" width="0.8" height="6" />
      </svg>
      <input ref="scrub" type="range" min="0" :max="steps" step="1" aria-label="Time in the log" :disabled="!span.last"
        :aria-valuetext="shown ? shown.caption : 'nothing yet'" @input="drag" @change="letGo" />
      <div class="ends num"><span>{{ clock(span.first) }}</span><span>{{ dragged ? clock(dragged) : '' }}</span><span>{{ clock(span.last) }}</span></div>
      <div class="row player-row">
        <button type="button" class="main player-play" :disabled="!span.last" @click="toggle">{{ playing ? 'Pause' : 'Play' }}</button>
        <button type="button" aria-label="Frame before" :disabled="!shown" @click="step(-1)">‹</button>
        <button type="button" aria-label="Next frame" :disabled="!shown" @click="step(1)">›</button>
        <label class="field">Speed<select v-model.number="speed">
          <option v-for="s in speeds" :key="s" :value="s">{{ s }} x</option></select></label>
        <label class="field">Session<select v-model="session">
          <option value="">all</option>
          <option v-for="s in sessions" :key="s" :value="s">{{ s.slice(0, 12) }}</option></select></label>
        <label class="field">Mark frames with<input ref="mark" type="text" list="player-classes" placeholder="person"
          @change="className = $refs.mark.value.trim()" /></label>
        <datalist id="player-classes"><option v-for="c in classes" :key="c" :value="c"></option></datalist>
        <label v-for="(on, name) in layers" :key="name" class="check">
          <input type="checkbox" v-model="layers[name]" /><span>{{ name[0].toUpperCase() + name.slice(1) }}</span></label>
      </div>
      <p class="notice" role="status">{{ told }}</p>
    </div>`,
  props: { root: String, device: String, at: Number },
  data() {
    return {
      shown: null, masks: "", playing: false, speed: 1, speeds: [0.5, 1, 4, 16], steps: STEPS,
      span: { first: 0, last: 0 }, dragged: 0, session: "", sessions: [], className: "", classes: [],
      cover: [], marks: [], of: 80, layers: { boxes: true, masks: true, landmarks: true },
      note: "Asking for the log.", busy: "", told: "", pixels: 0, seeking: false,
    };
  },
  computed: {
    width() { return (this.shown && this.shown.size[0]) || 4; },
    height() { return (this.shown && this.shown.size[1]) || 3; },
    unit() { return this.pixels ? this.width / this.pixels : 1; },
    widest() { return `calc(64vh * ${this.width / this.height})`; },
    label() { return this.shown ? `Frame ${this.shown.sequence}: ${this.shown.found}` : "No frame yet"; },
    points() {
      const flat = this.shown ? this.shown.points : [];
      return Array.from({ length: flat.length >> 1 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);
    },
  },
  watch: {
    session() { this.begin(0); },
    className() { this.loadMarks(); },
    speed() { this.replan(); },
  },
  created() {
    // None of this is drawn, so Vue does not watch it.
    const log = new FrameLog(
      (query) => this.of_device("frames", query),
      (frames) => this.learn(frames),
      (error) => (this.told = this.words(error)),
    );
    const pictures = new Pictures(this.root, (...what) => this.ask(...what), (frame) => log.like(frame));
    const ahead = new Ahead(log, pictures, (error) => this.words(error));
    Object.assign(this, {
      log, pictures, ahead, due: 0, waitingSince: 0, wish: null, target: null, gone: false, known: new Set(),
    });
  },
  mounted() {
    this.watcher = new ResizeObserver(() => (this.pixels = this.$refs.frame.clientWidth));
    this.watcher.observe(this.$refs.frame);
    this.onKey = (event) => this.key(event);
    this.onHide = () => document.hidden && this.pause();
    window.addEventListener("keydown", this.onKey);
    document.addEventListener("visibilitychange", this.onHide);
    this.looking = setInterval(() => document.hidden || this.look(), LOOK_MS);
    this.begin(this.at);
  },
  beforeUnmount() {
    this.gone = true;
    this.pause();
    this.watcher.disconnect();
    window.removeEventListener("keydown", this.onKey);
    document.removeEventListener("visibilitychange", this.onHide);
    clearInterval(this.looking);
  },
  methods: {
    // -- the log -------------------------------------------------------------------------------
    async ask(path, query, signal) {
      const answer = await fetch(`${this.root}${path}?${new URLSearchParams(query)}`, { signal });
      const found = await answer.json();
      if (!answer.ok) throw Object.assign(new Error(found.message), { reason: found.reason });
      return found;
    },
    of_device(what, query) {
      const session = this.session ? { session: this.session } : {};
      return this.ask(`/playback/${encodeURIComponent(this.device)}/${what}`, { ...session, ...query });
    },
    async begin(cursor) {
      this.pause();
      this.forget();
      try {
        this.span = await this.of_device("span", {});
        if (!this.span.last) {
          this.note = "The log holds nothing of this device.";
          return;
        }
        this.loadMarks();
        const since = Math.max(this.span.first, this.span.last - START_S);
        this.go(() => (cursor ? this.log.read({ after: cursor - 1 }) : this.log.read({ since })));
      } catch (error) {
        this.note = this.words(error);
      }
    },
    async look() {
      try {
        const span = await this.of_device("span", {});
        if (span.last > this.span.last) this.log.atEnd = false;
        this.span = span;
        this.putThumb();
      } catch {
        // it is asked again
      }
    },
    async loadMarks() {
      const turn = (this.marking = (this.marking || 0) + 1);
      const query = { first: this.span.first, last: this.span.last };
      try {
        const all = await this.of_device("marks", query);
        if (turn !== this.marking) return;
        this.of = all.of;
        this.cover = all.marks;
        if (!this.session) this.sessions = all.sessions;
        this.marks = [];
        if (!this.className) return;
        const some = await this.of_device("marks", { ...query, class_name: this.className });
        if (turn !== this.marking) return;
        this.marks = some.marks;
        this.told = some.marks.length ? "" : `No frame has ${this.className} in it.`;
      } catch (error) {
        this.told = this.words(error);
      }
    },
    learn(frames) {
      const last = Math.max(0, ...frames.map((one) => one.done));
      if (last > this.span.last) this.span = { ...this.span, last };
      const before = this.known.size;
      for (const one of frames) for (const name of one.classes) if (this.known.size < 100) this.known.add(name);
      if (this.known.size > before) this.classes = [...this.known].sort();
    },
    forget() {
      this.log.forget();
      this.replan();
      Object.assign(this, { wish: null, target: null, shown: null, masks: "", cover: [], marks: [] });
      this.paint(null);
    },
    // -- what is shown -------------------------------------------------------------------------
    paint(bitmap) {
      const canvas = this.$refs.canvas;
      if (!canvas) return;
      if (bitmap) {
        if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
          canvas.width = bitmap.width;
          canvas.height = bitmap.height;
        }
        canvas.getContext("2d").drawImage(bitmap, 0, 0);
        bitmap.close();
      } else {
        canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      }
    },
    show(frame, { bitmap, problem, masks }) {
      this.paint(bitmap);
      this.shown = Object.freeze(frame);
      this.masks = masks;
      this.note = problem;
      this.putThumb();
    },
    putThumb() {
      if (!this.shown || this.dragged) return;
      const { first, last } = this.span;
      const part = last > first ? (this.shown.done - first) / (last - first) : 1;
      this.$refs.scrub.value = Math.round(STEPS * Math.min(1, Math.max(0, part)));
    },
    // -- one frame that is wanted now ----------------------------------------------------------
    // find: gives the frame, or null. One is looked for at a time; the latest wish is next.
    async go(find) {
      this.replan();
      this.wish = find;
      if (this.seeking) return;
      this.seeking = true;
      while (this.wish && !this.gone) {
        const find = this.wish;
        this.wish = null;
        const told = setTimeout(() => (this.busy = "Waiting for the server."), SLOW_MS);
        try {
          const frame = await find();
          if (frame) this.show(frame, await this.pictures.prepared(frame));
        } catch (error) {
          if (this.shown) this.told = this.words(error);
          else this.note = this.words(error);
        }
        clearTimeout(told);
        this.busy = "";
      }
      this.seeking = false;
      this.target = null;
      this.due = performance.now();
    },
    drag() {
      const { first, last } = this.span;
      const place = Number(this.$refs.scrub.value) / STEPS;
      this.dragged = first + place * (last - first);
      const second = this.dragged;
      this.go(() => (place >= 1 ? this.log.read({ before: 0 }) : this.log.find(second)));
    },
    letGo() {
      this.dragged = 0;
      this.due = performance.now();
      if (!this.seeking) this.putThumb();
    },
    async step(by) {
      this.pause();
      const at = () => this.log.place(this.target || this.shown);
      if (!this.shown) return;
      if (at() < 0) {
        const { cursor } = this.shown;
        this.go(() => this.log.read({ after: cursor - 1 }));
        return;
      }
      if (!this.log.frames[at() + by]) await this.log.more(by < 0, this.shown);
      const next = this.log.frames[at() + by];
      if (!next) {
        this.told = by < 0 ? "This is the beginning of the log." : "This is the end of the log.";
        return;
      }
      this.told = "";
      this.target = next;
      this.go(() => next);
    },
    jump(seconds) {
      if (!this.shown) return;
      const second = Math.max(this.span.first, this.shown.done + seconds);
      this.go(() => this.log.find(second));
    },
    ends(newest) {
      this.go(() => this.log.read(newest ? { before: 0 } : { after: 0 }));
    },
    key(event) {
      const at = event.target;
      const ours = at === document.body || this.$refs.player.contains(at);
      const typed = at.tagName === "SELECT" || (at.tagName === "INPUT" && at !== this.$refs.scrub && at.type !== "checkbox");
      if (!ours || typed || event.ctrlKey || event.metaKey || event.altKey) return;
      const back = event.key === "ArrowLeft" || event.key === "PageUp";
      if (event.key === " ") {
        if (at.tagName === "BUTTON" || at.type === "checkbox") return; // it presses that
        this.toggle();
      } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        if (event.shiftKey) this.jump(back ? -JUMP_S : JUMP_S);
        else this.step(back ? -1 : 1);
      } else if (event.key === "PageUp" || event.key === "PageDown") this.jump(back ? -JUMP_S : JUMP_S);
      else if (event.key === "Home" || event.key === "End") this.ends(event.key === "End");
      else return;
      event.preventDefault();
    },
    // -- playing -------------------------------------------------------------------------------
    async toggle() {
      if (this.playing) {
        this.pause();
        return;
      }
      this.told = "";
      const { newest, atEnd } = this.log;
      if (atEnd && this.shown && newest && this.shown.cursor === newest.cursor) this.ends(false);
      this.playing = true;
      this.due = performance.now();
      this.tick();
    },
    pause() {
      this.playing = false;
      this.busy = "";
      cancelAnimationFrame(this.ticking);
      this.replan();
    },
    replan() {
      this.ahead.clear();
      this.waitingSince = 0;
    },
    tick() {
      if (!this.playing || this.gone) return;
      this.ticking = requestAnimationFrame(() => this.tick());
      if (this.seeking || this.dragged || !this.shown) return;
      const now = performance.now();
      while (this.ahead.next && this.ahead.next.ready) {
        const { frame, ready } = this.ahead.next;
        const due = this.due + this.gap(this.shown, frame);
        if (now < due) break;
        this.ahead.take();
        this.show(frame, ready);
        this.due = now - due > 250 ? now : due; // it came late: those behind it come later too
      }
      this.wait(now);
      if (!this.ahead.fill(this.shown, this.speed)) this.log.more(false, this.shown);
      if (!this.ahead.next && this.log.atEnd && !this.log.loading) {
        this.pause();
        this.told = "This is the end of the log.";
      }
    },
    gap(one, next) {
      const seconds = next.session === one.session ? Math.max(0, next.at - one.at) : Infinity;
      return Math.min((seconds / this.speed) * 1000, LONGEST_GAP_MS);
    },
    wait(now) {
      const waits = this.ahead.next ? !this.ahead.next.ready : !!this.log.loading;
      if (!waits) this.waitingSince = 0;
      else this.waitingSince ||= now;
      this.busy = waits && now - this.waitingSince > SLOW_MS ? "Waiting for the server." : "";
    },
    // -- words ---------------------------------------------------------------------------------
    words(error) {
      if (error.reason === "unauthenticated") return "Log in again.";
      return error.reason ? error.message : "The console does not answer.";
    },
    clock(second) {
      return second ? new Date(second * 1000).toISOString().slice(0, 19).replace("T", " ") : "";
    },
  },
};
