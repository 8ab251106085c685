// Forms, sent so that what comes next does not overtake them.

import type { Page } from "@playwright/test";

/** Presses a form's button, and waits for the answer to what it sends: a page opened before would go without its cookies. */
export async function submit(page: Page, button: string): Promise<void> {
  const answered = page.waitForResponse((response) => response.request().method() === "POST");
  await page.getByRole("button", { name: button }).click();
  await answered;
}
