// A picture with what was found on it; a region may be drawn with mouse, pen or finger. The picture is
// one that loader.js has fetched: it changes together with everything else.
export default {
  template: `
    <figure class="stage" :class="{'stage-drawing': drawing}">
      <div ref="frame" class="stage-frame" :style="{aspectRatio: width + ' / ' + height, maxWidth: widest}"
        @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="draft = start = null">
        <img v-if="src" :src="root + src" :alt="label" draggable="false" decoding="sync" />
        <svg :viewBox="'0 0 ' + width + ' ' + height" aria-hidden="true">
          <image v-if="layers.masks && overlay.masks" :href="overlay.masks"
            :width="width" :height="height" preserveAspectRatio="none" />
          <g v-if="layers.landmarks" class="stage-points">
            <circle v-for="(p, i) in points" :key="i" :cx="p[0]" :cy="p[1]" :r="unit * 1.1" />
          </g>
          <g v-if="layers.boxes" :style="{fontSize: unit * 12 + 'px'}">
            <g v-for="(b, i) in overlay.boxes || []" :key="i" class="stage-box">
              <rect :x="b.x" :y="b.y" :width="b.width" :height="b.height" :stroke="b.colour" />
              <text :x="b.x + unit * 4" :y="Math.max(b.y + unit * 14, unit * 14)">{{ b.label }}</text>
            </g>
          </g>
          <rect v-for="(r, i) in regions" :key="'r' + i" class="stage-region" v-bind="scaled(r)" />
          <rect v-if="draft" class="stage-draft" v-bind="scaled(draft)" />
        </svg>
        <div v-if="note" class="stage-note">{{ note }}</div>
      </div>
      <figcaption class="num">
        <span v-if="caption">{{ caption }}</span>
        <a v-if="src && save" class="stage-save" :href="root + src + (src.includes('?') ? '&' : '?') + 'download=1'"
          download>Download the picture</a>
        <span v-if="src && busy" class="stage-busy">{{ busy }}</span>
      </figcaption>
    </figure>`,
  props: {
    root: String,
    src: String,
    width: Number,
    height: Number,
    label: String,
    caption: String,
    hint: String,
    problem: String,
    busy: String,
    save: Boolean,
    overlay: Object,
    layers: Object,
    regions: Array,
    drawing: Boolean,
  },
  emits: ["region"],
  data() {
    return { pixels: 0, draft: null, start: null };
  },
  computed: {
    note() {
      return this.problem || (this.src ? "" : this.busy || this.hint);
    },
    unit() {
      return this.pixels ? this.width / this.pixels : 1;
    },
    widest() {
      return `calc(68vh * ${this.width / this.height})`;
    },
    points() {
      const flat = this.overlay.points || [];
      const pairs = [];
      for (let i = 0; i + 1 < flat.length; i += 2) pairs.push([flat[i], flat[i + 1]]);
      return pairs;
    },
  },
  mounted() {
    this.watcher = new ResizeObserver(() => this.measure());
    this.watcher.observe(this.$refs.frame);
  },
  updated() {
    this.measure();
  },
  beforeUnmount() {
    this.watcher.disconnect();
  },
  methods: {
    measure() {
      this.pixels = this.$refs.frame ? this.$refs.frame.clientWidth : 0;
    },
    scaled(r) {
      return {
        x: r[0] * this.width,
        y: r[1] * this.height,
        width: (r[2] - r[0]) * this.width,
        height: (r[3] - r[1]) * this.height,
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
