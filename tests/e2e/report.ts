// The closing line, and the rule that a skipped test is a failed run.

import type { FullResult, Reporter, TestCase, TestResult } from "@playwright/test/reporter";

export default class Report implements Reporter {
  private readonly counts = { passed: 0, failed: 0, skipped: 0 };

  onTestEnd(test: TestCase, result: TestResult): void {
    if (result.status === "skipped") this.counts.skipped += 1;
    else if (test.outcome() === "expected") this.counts.passed += 1;
    else this.counts.failed += 1;
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- the interface wants a promise here.
  async onEnd(result: FullResult): Promise<{ status: FullResult["status"] }> {
    const { passed, failed, skipped } = this.counts;
    console.log(`\n${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ""}`);
    const bad = skipped > 0 || passed === 0;
    return { status: bad ? "failed" : result.status };
  }

  printsToStdio(): boolean {
    return false;
  }
}
