//! Listing: the log read page by page, forwards from a chosen start or backwards from the end.

use drumline_proto::v1;

use super::Event;
use super::rpc::{filter, to_proto};
use crate::app::App;
use crate::edge::Context;
use crate::edge::check::Check;
use crate::edge::page::{self, Page};
use crate::edge::payload;
use crate::error::Refusal;
use crate::lane::refusal_of;
use crate::store::row::Value;
use crate::store::{Selection, Store};
use crate::tail::{Cursor, Filter, out_of_range};
use crate::time::Time;

/// Reads events after a position, or before one, at most `limit`.
///
/// # Errors
/// CURSOR_OUT_OF_RANGE if events after the position have been deleted, also while the reader was on its way.
pub(super) async fn read(
    store: &Store,
    namespace: &str,
    from: i64,
    limit: usize,
    backwards: bool,
) -> Result<Vec<Event>, Refusal> {
    let after = Some(vec![Value::Int(from)]);
    let selection = Selection {
        index: Event::PRIMARY,
        prefix: Vec::new(),
        after,
        limit,
        backwards,
    };
    let (head, events) = store
        .select::<Event>(namespace, selection)
        .await
        .map_err(|error| refusal_of(&error))?;
    let beginning = head.first_position - 1;
    if !backwards && from < beginning {
        let (epoch, position) = (store.epoch(), beginning);
        let message = "events after the cursor are no longer kept";
        return Err(out_of_range(
            "EXPIRED",
            message,
            Cursor { epoch, position },
            head.position,
        ));
    }
    Ok(events)
}

/// The position before the first event at or after a time. Positions are gapless and time does not run backwards, so halving finds it.
pub async fn position_before(
    store: &Store,
    namespace: &str,
    time: Time,
    beginning: i64,
    end: i64,
) -> Result<i64, Refusal> {
    let (mut before, mut at_or_after) = (beginning, end + 1);
    while at_or_after - before > 1 {
        let middle = before + (at_or_after - before) / 2;
        let event = store
            .get::<Event>(namespace, &middle)
            .await
            .map_err(|error| refusal_of(&error))?;
        match event {
            Some(event) if event.at >= time => at_or_after = middle,
            // What is missing in the middle has been deleted meanwhile, so it is old.
            _ => before = middle,
        }
    }
    Ok(at_or_after - 1)
}

/// How many events one call of `ListEvents` looks at.
const SCAN: usize = 5_000;

struct Listing {
    filter: Filter,
    /// Where to read on.
    from: i64,
    /// The newest are listed first down to this position, which is no part of it.
    floor: i64,
    /// The end of the log when the newest was listed first.
    newest: i64,
    start_time: Option<Time>,
    end_time: Option<Time>,
    newest_first: bool,
    page: Page,
    name: String,
}

async fn listing(app: &App, context: &Context, request: v1::ListEventsRequest) -> Result<Listing, Refusal> {
    let name = format!(
        "events/{:?}/{}/{}/{:?}/{:?}/{}",
        request.filter,
        request.after_cursor,
        request.start_position,
        request.start_time,
        request.end_time,
        request.newest_first
    );
    let page = Page::new(request.page_size, &request.page_token, &name)?;
    let mut check = Check::default();
    let filter = filter(&mut check, request.filter);
    if !request.after_cursor.is_empty() && request.start_position != 0 {
        check.violation("start_position", "cannot be given together with after_cursor");
    }
    if request.start_position < 0 {
        check.violation("start_position", "must not be negative");
    }
    check.finish()?;
    let feed = app.tail.feed(&context.namespace).await?;
    let start_time = request.start_time.map(payload::time);
    let start = if !request.after_cursor.is_empty() {
        Some(feed.check(Cursor::decode(&request.after_cursor, "after_cursor")?)?)
    } else if request.start_position > 0 {
        Some(feed.check(Cursor {
            epoch: feed.epoch(),
            position: request.start_position - 1,
        })?)
    } else {
        None
    };
    // Known before anything is read: what comes later is not looked at.
    let mut newest = feed.position();
    let from = match page.after.as_deref() {
        Some([Value::Int(reached), Value::Int(end)]) => {
            newest = *end;
            *reached
        }
        _ if request.newest_first => newest + 1,
        _ => match (start, start_time) {
            (Some(start), _) => start,
            (None, Some(time)) => {
                position_before(&app.store, &context.namespace, time, feed.beginning(), newest).await?
            }
            (None, None) => feed.beginning(),
        },
    };
    Ok(Listing {
        filter,
        from,
        floor: start.unwrap_or(0),
        newest,
        start_time,
        end_time: request.end_time.map(payload::time),
        newest_first: request.newest_first,
        page,
        name,
    })
}

/// Lists events.
pub async fn list_events(
    app: &App,
    context: &Context,
    request: v1::ListEventsRequest,
) -> Result<v1::ListEventsResponse, Refusal> {
    let listing = listing(app, context, request).await?;
    let (epoch, now) = (
        app.tail.feed_as_it_is(&context.namespace).await?.epoch(),
        Time::of_this_machine(),
    );
    let mut response = v1::ListEventsResponse::default();
    let (mut reached, mut bytes, mut looked_at) = (listing.from, 0, 0);
    'pages: loop {
        let limit = listing.page.size.clamp(64, 500);
        let events = read(&app.store, &context.namespace, reached, limit, listing.newest_first).await?;
        let exhausted = events.len() < limit;
        for event in events {
            let before_start = listing.start_time.is_some_and(|time| event.at < time);
            let after_end = listing.end_time.is_some_and(|time| event.at >= time);
            let past_the_start = listing.newest_first && (before_start || event.position <= listing.floor);
            if past_the_start || (!listing.newest_first && after_end) {
                break 'pages;
            }
            reached = event.position;
            looked_at += 1;
            if !before_start && !after_end && !event.is_expired(now) && listing.filter.matches(&event) {
                bytes += event.payload.as_ref().map_or(0, |payload| payload.len()) + 200;
                response.events.push(to_proto(&event, epoch));
            }
            let full = response.events.len() == listing.page.size || bytes > app.limits.max_message_bytes / 2;
            if full || looked_at == SCAN {
                let place = [Value::Int(reached), Value::Int(listing.newest)];
                response.next_page_token = page::token(&place, &listing.name);
                break 'pages;
            }
        }
        if exhausted {
            break;
        }
    }
    let position = if listing.newest_first { listing.newest } else { reached };
    response.cursor = Cursor { epoch, position }.encode();
    Ok(response)
}
