// A table of cells; on narrow screens each row becomes a block (console.css).
export default {
  template: `
    <div class="table" role="region" :aria-label="caption" tabindex="0">
      <table v-if="rows.length">
        <caption class="sr-only">{{ caption }}</caption>
        <thead><tr>
          <th v-for="c in columns" :key="c.label" scope="col" :class="{num: c.number, wide: c.wide}">{{ c.label }}</th>
        </tr></thead>
        <tbody>
          <tr v-for="r in rows" :key="r.key" :class="{picked: r.picked}" :data-key="r.key">
            <td v-for="(c, i) in r.cells" :key="i" :data-label="columns[i].label" :title="c.title || null"
              :class="[c.tone && 'tone-' + c.tone, {num: columns[i].number, wide: columns[i].wide, empty: !c.text}]">
              <span v-if="i === 0 && (r.ticked !== null || c.image)" class="before">
                <input v-if="r.ticked !== null" type="checkbox" :checked="r.ticked" :aria-label="'Choose ' + c.text"
                  @change="$emit('tick', {key: r.key, ticked: $event.target.checked})" />
                <img v-if="c.image && !without[c.image]" :src="root + c.image" alt="" loading="lazy" class="thumbnail"
                  @error="without[c.image] = true" />
              </span>
              <a v-if="c.href" :href="root + c.href">{{ c.text }}</a>
              <button v-else-if="c.pick" type="button" class="link" :aria-pressed="r.picked ? 'true' : 'false'"
                @click="$emit('pick', r.key)">{{ c.text }}</button>
              <template v-else>{{ c.text }}</template>
              <button v-if="c.act && acts" type="button" class="small act" :aria-label="c.act + ' ' + r.key"
                @click="$emit('act', r.key)">{{ c.act }}</button>
            </td>
          </tr>
        </tbody>
      </table>
      <p v-else class="empty-table">{{ empty }}</p>
    </div>`,
  props: { root: String, caption: String, columns: Array, rows: Array, empty: String, acts: Boolean },
  emits: ["pick", "tick", "act"],
  data() {
    return { without: {} };
  },
};
