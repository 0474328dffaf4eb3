// Pictures and masks of frames, as bitmaps that can be drawn at once; what came is kept for who goes back.
const KEPT_BYTES = 24e6; // of pictures as they came
const TRIES = 5;

export class Pictures {
  // root: before every path. ask(path, query, signal): a JSON answer. like(frame): whose picture it has.
  constructor(root, ask, like) {
    Object.assign(this, { root, ask, like, kept: new Map(), keptBytes: 0, without: new Set() });
    this.cost = 0; // seconds that one takes to come, on average
  }
  // Whether frames of this one's session and bundle have pictures, as far as is known.
  some(frame) {
    return !this.without.has(maker(frame));
  }
  // A frame's bitmap (null: none), its masks ("": none), and why there is no picture ("": there is to be none).
  async prepared(frame, signal) {
    const [picture, masks] = await Promise.all([this.picture(frame, signal), this.masks(frame, signal)]);
    return { ...picture, masks };
  }
  async masks(frame, signal) {
    if (!frame.masks) return "";
    try {
      return (await this.ask(`/masks/${frame.cursor}`, {}, signal)).masks;
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return "";
    }
  }
  async picture(frame, signal) {
    if (!this.some(frame) || frame.failed) return { bitmap: null, problem: "" };
    const path = this.like(frame).picture;
    let blob = this.kept.get(path);
    if (blob) {
      this.kept.delete(path);
      this.kept.set(path, blob); // used last
    } else {
      const began = performance.now();
      const answer = await this.fetched(path, signal);
      if (answer.status === 204) {
        this.without.add(maker(frame)); // none of this bundle's has one: boxes alone are drawn
        return { bitmap: null, problem: "" };
      }
      if (!answer.ok) {
        const why = await answer.json().catch(() => ({ message: "The picture could not be fetched." }));
        return { bitmap: null, problem: why.message };
      }
      blob = await answer.blob();
      const took = (performance.now() - began) / 1000;
      this.cost = this.cost ? 0.7 * this.cost + 0.3 * took : took;
      this.keep(path, blob);
    }
    return { bitmap: blob.size ? await createImageBitmap(blob) : null, problem: "" };
  }
  // The answer; a server that has too much to do is asked again.
  async fetched(path, signal) {
    for (let again = 1; ; again++) {
      const answer = await fetch(`${this.root}${path}?optional=1`, { signal });
      if (answer.status !== 503 || again >= TRIES) return answer;
      await new Promise((later) => setTimeout(later, 150 * 2 ** again));
    }
  }
  keep(path, blob) {
    this.kept.set(path, blob);
    this.keptBytes += blob.size;
    for (const [old, one] of this.kept) {
      if (this.keptBytes <= KEPT_BYTES) break;
      this.kept.delete(old);
      this.keptBytes -= one.size;
    }
  }
}

const maker = (frame) => `${frame.session} ${frame.bundle}`;
