// The workers that run the net, as one: batches go to whoever is free.

import { PageError } from "../read/error.js";

const IN_HAND = 2; // batches that a worker has at a time, so that it need not wait for the next

export class Pool {
  #waiting = [];
  #next = 0;

  /** ports: to compute.js, one a worker. batch: windows of one. */
  constructor(ports, batch) {
    this.batch = batch;
    this.workers = ports.map((port) => this.#employ(port));
    this.ahead = ports.length * IN_HAND + 1;
  }

  #employ(port) {
    const worker = { port, jobs: new Map() };
    port.onmessage = ({ data: { id, values, fault } }) => {
      const job = worker.jobs.get(id);
      worker.jobs.delete(id);
      if (fault) job.reject(new PageError("computing", { reason: fault }));
      else job.resolve(values);
      this.#deal();
    };
    return worker;
  }

  /** A promise of the probabilities, count x classes x height x width, of count windows of this size: inputs are given away. */
  run(inputs, count, size) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ id: this.#next++, inputs, count, size, resolve, reject });
      this.#deal();
    });
  }

  #deal() {
    const free = () => [...this.workers].sort((a, b) => a.jobs.size - b.jobs.size).find((worker) => worker.jobs.size < IN_HAND);
    for (let worker = free(); worker && this.#waiting.length; worker = free()) {
      const job = this.#waiting.shift();
      worker.jobs.set(job.id, job);
      const work = { id: job.id, inputs: job.inputs, count: job.count, size: job.size };
      worker.port.postMessage(work, job.inputs.map((pixels) => pixels.buffer));
    }
  }
}
