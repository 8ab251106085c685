// Forms, sent so that what comes next does not overtake them.

import type { Page, Response } from "@playwright/test";

/** Presses a form's button, and waits for the page that follows: one opened before would go without its cookies, or be given up
 * for it. */
export async function submit(page: Page, button: string): Promise<void> {
  let answered = false;
  const hear = (response: Response) => {
    answered ||= response.request().method() === "POST";
  };
  page.on("response", hear);
  const next = page.waitForEvent("domcontentloaded", () => answered);
  await page.getByRole("button", { name: button }).click();
  await next;
  page.off("response", hear);
}
