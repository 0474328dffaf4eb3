// An input that is its user's: the server's value is put in when it changes, and not otherwise. (Vue
// would put it in again whenever anything on the page is drawn.)
export default {
  template: `<input ref="field" @input="moved" @change="$emit('settled', $refs.field.value)" />`,
  props: { value: String, pause: Number },
  emits: ["moved", "settled"],
  watch: { value: { handler: "put", flush: "post" } },
  mounted() {
    this.put();
  },
  beforeUnmount() {
    clearTimeout(this.timer);
  },
  methods: {
    put() {
      this.$refs.field.value = this.value;
    },
    moved() {
      if (this.timer) return;
      this.timer = setTimeout(() => {
        this.timer = null;
        this.$emit("moved", this.$refs.field.value);
      }, this.pause);
    },
  },
};
