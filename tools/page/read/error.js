// What a user's mistake, or a file's fault, is told with: one sentence of app/texts.js, by name.

export class PageError extends Error {
  /** name: of the sentence in app/texts.js. values: what stands in its gaps. */
  constructor(name, values = {}) {
    super(`${name} ${JSON.stringify(values)}`);
    this.sentence = name;
    this.values = values;
  }
}
