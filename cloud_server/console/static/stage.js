// A picture with what was found on it; a region may be drawn with mouse, pen or finger.
//
// One picture is fetched at a time, and what belongs to it is shown when it is there: where frames come
// faster than pictures, the newest one is taken next, and none is drawn with another one's boxes.
export default {
  template: `
    <figure class="stage" :class="{'stage-drawing': drawing}">
      <div ref="frame" class="stage-frame" :style="{aspectRatio: now.width + ' / ' + now.height, maxWidth: widest}"
        @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="draft = start = null">
        <img v-if="now.src" :src="now.src" :alt="now.label" draggable="false" />
        <svg :viewBox="'0 0 ' + now.width + ' ' + now.height" aria-hidden="true">
          <image v-if="layers.masks && now.overlay.masks" :href="now.overlay.masks"
            :width="now.width" :height="now.height" preserveAspectRatio="none" />
          <g v-if="layers.landmarks" class="stage-points">
            <circle v-for="(p, i) in points" :key="i" :cx="p[0]" :cy="p[1]" :r="unit * 1.1" />
          </g>
          <g v-if="layers.boxes" :style="{fontSize: unit * 12 + 'px'}">
            <g v-for="(b, i) in now.overlay.boxes || []" :key="i" class="stage-box">
              <rect :x="b.x" :y="b.y" :width="b.width" :height="b.height" :stroke="b.colour" />
              <text :x="b.x + unit * 4" :y="Math.max(b.y + unit * 14, unit * 14)">{{ b.label }}</text>
            </g>
          </g>
          <rect v-for="(r, i) in regions" :key="'r' + i" class="stage-region" v-bind="scaled(r)" />
          <rect v-if="draft" class="stage-draft" v-bind="scaled(draft)" />
        </svg>
        <div v-if="note" class="stage-note">{{ note }}</div>
      </div>
      <figcaption v-if="now.caption" class="num">{{ now.caption }}</figcaption>
    </figure>`,
  props: {
    src: String,
    next: String,
    width: Number,
    height: Number,
    label: String,
    caption: String,
    hint: String,
    overlay: Object,
    layers: Object,
    regions: Array,
    drawing: Boolean,
  },
  data() {
    return { now: this.wanted(), loading: false, problem: "", unit: 1, draft: null, start: null };
  },
  computed: {
    note() {
      return this.problem || (this.now.src ? "" : this.hint);
    },
    widest() {
      return `calc(68vh * ${this.now.width / this.now.height})`;
    },
    points() {
      const flat = this.now.overlay.points || [];
      const pairs = [];
      for (let i = 0; i + 1 < flat.length; i += 2) pairs.push([flat[i], flat[i + 1]]);
      return pairs;
    },
  },
  watch: {
    src: "load",
    caption: "refresh",
    overlay: "refresh",
    next(url) {
      if (url) new Image().src = url;
    },
  },
  mounted() {
    this.watcher = new ResizeObserver(() => this.measure());
    this.watcher.observe(this.$refs.frame);
    this.load();
  },
  beforeUnmount() {
    this.watcher.disconnect();
  },
  methods: {
    wanted(src = "") {
      const { width, height, label, caption, overlay } = this.$props;
      return { src, width, height, label, caption, overlay };
    },
    refresh() {
      if (!this.loading) this.now = this.wanted(this.problem ? "" : this.src);
    },
    load() {
      if (this.loading) return;
      this.problem = "";
      if (!this.src) {
        this.now = this.wanted();
        return;
      }
      const coming = this.wanted(this.src);
      const image = new Image();
      this.loading = true;
      image.onload = () => this.arrived(coming, "");
      image.onerror = () => this.explain(coming);
      image.src = coming.src;
    },
    async explain(coming) {
      let text = "The picture could not be fetched.";
      try {
        const answer = await fetch(coming.src);
        if (!answer.ok) text = (await answer.json()).message || text;
      } catch {
        // the console itself is away; it says so by itself
      }
      this.arrived({ ...coming, src: "" }, text, coming.src);
    },
    arrived(shown, problem, asked = shown.src) {
      this.loading = false;
      this.now = shown;
      this.problem = problem;
      this.measure();
      this.$emit("shown", asked);
      if (asked !== this.src) this.load();
    },
    measure() {
      const pixels = this.$refs.frame ? this.$refs.frame.clientWidth : 0;
      this.unit = pixels ? this.now.width / pixels : 1;
    },
    scaled(r) {
      return {
        x: r[0] * this.now.width,
        y: r[1] * this.now.height,
        width: (r[2] - r[0]) * this.now.width,
        height: (r[3] - r[1]) * this.now.height,
      };
    },
    at(event) {
      const box = this.$refs.frame.getBoundingClientRect();
      const part = (value) => Math.min(1, Math.max(0, value));
      return [part((event.clientX - box.left) / box.width), part((event.clientY - box.top) / box.height)];
    },
    down(event) {
      if (!this.drawing) return;
      this.$refs.frame.setPointerCapture(event.pointerId);
      this.start = this.at(event);
      this.draft = null;
      event.preventDefault();
    },
    move(event) {
      if (!this.start) return;
      const [x, y] = this.at(event);
      const [a, b] = this.start;
      this.draft = [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
    },
    up() {
      const drawn = this.draft;
      this.start = null;
      this.draft = null;
      if (drawn && drawn[2] - drawn[0] > 0.01 && drawn[3] - drawn[1] > 0.01) this.$emit("region", drawn);
    },
  },
};
