//! Telling how far an image is that the node's engine fetches for a task.
//!
//! Managers know no more than that a task is being prepared. The engine fetches each layer once, whoever asks for it, and tells
//! everybody how far it is: so the same image is asked for here, and that is given up once nobody wants to know.

use std::io;

use skep_docker::{Credentials, PullProgress, Reference};
use tokio::sync::watch;

use super::Here;
use super::serve::{Line, refuse};
use crate::wire::{Done, Message, PullOrder, Refusal, RefusalCode};

/// Until the image is there, it cannot be had, or the server closes the line.
pub(super) async fn run(here: &Here, mut line: Line, order: PullOrder) -> io::Result<()> {
    let Ok(reference) = order.image.parse::<Reference>() else {
        let why = "that is no name of an image";
        return refuse(line, "", Refusal::new(RefusalCode::BadRequest, why)).await;
    };
    let Ok(_free) = here.pulls.try_acquire() else {
        let why = "as many images as may be are being fetched on this node";
        return refuse(line, "", Refusal::new(RefusalCode::Busy, why)).await;
    };
    let login = order.login.map(|login| Credentials { user: login.user, password: login.password });
    let (percent, mut told) = watch::channel(None);
    let report = |progress: &PullProgress| {
        let now = progress.has_begun().then(|| progress.percent());
        percent.send_if_modified(|known| std::mem::replace(known, now) != now);
    };
    let pulled = here.config.engine.pull(&reference, login.as_ref(), report);
    tokio::pin!(pulled);
    line.say(Message::Done(Done::Open)).await?;
    loop {
        let ended = tokio::select! {
            ended = &mut pulled => ended,
            Ok(()) = told.changed() => {
                let percent = *told.borrow_and_update();
                if let Some(percent) = percent {
                    line.say(Message::Pulled { percent }).await?;
                }
                continue;
            }
            // Nothing more is said to us: whatever comes is the end.
            _ = line.next() => return Ok(()),
            () = here.stop.cancelled() => return Ok(()),
        };
        return line.say(Message::End { error: ended.err().map(|error| error.to_string()) }).await;
    }
}
