// A picture with what was found on it; a region may be drawn with mouse, pen or finger.
export default {
  template: `
    <figure class="stage" :class="{'stage-drawing': drawing}">
      <div ref="frame" class="stage-frame" :style="{aspectRatio: width + ' / ' + height}"
        @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="draft = null">
        <img v-if="shown" :src="shown" :alt="label" draggable="false" :class="{stale: coming}" />
        <svg v-if="width" :viewBox="'0 0 ' + width + ' ' + height" aria-hidden="true">
          <image v-if="layers.masks && overlay.masks" :href="overlay.masks" :width="width"
            :height="height" preserveAspectRatio="none" class="stage-masks" />
          <g v-if="layers.landmarks" class="stage-points">
            <circle v-for="(p, i) in points" :key="i" :cx="p[0]" :cy="p[1]" :r="unit * 1.3" />
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
      <figcaption v-if="caption" class="num">{{ caption }}</figcaption>
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
    return { shown: "", coming: false, problem: "", unit: 1, draft: null, start: null };
  },
  computed: {
    note() {
      return this.problem || (this.shown ? "" : this.hint);
    },
    points() {
      const flat = (this.overlay && this.overlay.points) || [];
      const pairs = [];
      for (let i = 0; i + 1 < flat.length; i += 2) pairs.push([flat[i], flat[i + 1]]);
      return pairs;
    },
  },
  watch: {
    src: { handler: "load", immediate: true },
    width: "measure",
    next(url) {
      if (url) new Image().src = url;
    },
  },
  mounted() {
    this.watcher = new ResizeObserver(() => this.measure());
    this.watcher.observe(this.$refs.frame);
  },
  beforeUnmount() {
    this.watcher.disconnect();
  },
  methods: {
    load(url) {
      this.problem = "";
      if (!url) {
        this.shown = "";
        this.coming = false;
        return;
      }
      this.coming = true;
      const image = new Image();
      image.onload = () => this.arrived(url, url, "");
      image.onerror = () => this.explain(url);
      image.src = url;
    },
    async explain(url) {
      let text = "The picture could not be fetched.";
      try {
        const answer = await fetch(url);
        if (!answer.ok) text = (await answer.json()).message || text;
      } catch {
        // the console itself is away; it says so by itself
      }
      this.arrived(url, "", text);
    },
    arrived(url, shown, problem) {
      if (url !== this.src) return;
      this.shown = shown;
      this.problem = problem;
      this.coming = false;
      this.$emit("shown", url);
    },
    measure() {
      const pixels = this.$refs.frame ? this.$refs.frame.clientWidth : 0;
      this.unit = pixels ? this.width / pixels : 1;
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
