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
              <a v-if="c.href" :href="c.href">{{ c.text }}</a>
              <button v-else-if="c.pick" type="button" class="link" :aria-pressed="r.picked ? 'true' : 'false'"
                @click="$emit('pick', r.key)">{{ c.text }}</button>
              <template v-else>{{ c.text }}</template>
            </td>
          </tr>
        </tbody>
      </table>
      <p v-else class="empty-table">{{ empty }}</p>
    </div>`,
  props: { caption: String, columns: Array, rows: Array, empty: String },
};
