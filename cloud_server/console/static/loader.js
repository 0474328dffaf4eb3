// Fetches the pictures of one frame, and says when all are there or cannot be had. Nothing is drawn
// here: the server then changes the picture and all that belongs to it in one go.
export default {
  template: `<span hidden></span>`,
  props: { root: String, ask: Number, paths: Array, ahead: Array },
  emits: ["came"],
  watch: {
    ask: "fetch",
    ahead(paths) {
      this.next = paths.map((path) => this.image(path));
    },
  },
  mounted() {
    this.fetch();
  },
  methods: {
    image(path) {
      const made = new Image();
      made.src = this.root + path;
      return made;
    },
    async fetch() {
      const { ask, paths } = this;
      if (!ask) return;
      const problems = {};
      const images = paths.map((path) => this.image(path));
      await Promise.all(
        images.map(async (image, at) => {
          try {
            await image.decode();
          } catch {
            problems[paths[at]] = await this.explain(image.src);
          }
        }),
      );
      if (ask !== this.ask) return;
      this.held = images; // so that they are still decoded when they are shown
      this.$emit("came", { ask, problems });
    },
    async explain(url) {
      try {
        const answer = await fetch(url);
        if (!answer.ok) return (await answer.json()).message;
      } catch {
        // the console itself is away, or something before it answers in its place
      }
      return "The picture could not be fetched.";
    },
  },
};
