//! Which format a scraper asked for, and a page as a body that is made while the client reads it.
//!
//! Content negotiation after RFC 9110 section 12.5, for the two formats that the metrics page has.

use std::io::Write;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Frame;

/// A format of the metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Weights are whole thousandths: RFC 9110 allows three decimals.
const FULL: u16 = 1000;

/// Compressed output is handed on in pieces of at least this many bytes, so that a small page is one piece.
const GZIP_PIECE: usize = 8 << 10;

/// The format for an `Accept` header. OpenMetrics goes only to clients that name it, and only if they don't
/// like text better; everything else gets text, also a client that accepts nothing we have.
pub fn format(accept: Option<&str>) -> Format {
    let Some(accept) = accept else { return Format::Text };
    let mut open_metrics = Wish::default();
    // Text counts by the most specific range that covers it: exact type, `text/*`, `*/*`.
    let mut text = [Wish::default(); 3];
    for (place, range) in split(accept, b',').enumerate() {
        let mut parts = split(range, b';');
        let media = parts.next().unwrap_or_default();
        let (mut version, mut q) = (None, Some(FULL));
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                q = weight(value);
            } else if name.eq_ignore_ascii_case("version") {
                version = Some(value);
            }
        }
        let Some(q) = q else { continue };
        let of_version = |ours: &str| version.is_none_or(|v| v == ours);
        if media.eq_ignore_ascii_case("application/openmetrics-text") && of_version("1.0.0") {
            open_metrics.add(q, place);
        } else if media.eq_ignore_ascii_case("text/plain") && of_version("0.0.4") {
            text[0].add(q, place);
        } else if media.eq_ignore_ascii_case("text/*") {
            text[1].add(q, place);
        } else if media == "*/*" {
            text[2].add(q, place);
        }
    }
    let text = text.into_iter().find(|wish| wish.named).unwrap_or_default();
    let earlier = !text.named || open_metrics.place < text.place;
    if open_metrics.q > text.q || (open_metrics.q == text.q && open_metrics.q > 0 && earlier) {
        Format::OpenMetrics
    } else {
        Format::Text
    }
}

/// Whether an `Accept-Encoding` header allows gzip. Without the header it doesn't.
pub fn accepts_gzip(accept_encoding: Option<&str>) -> bool {
    let (mut gzip, mut any) = (Wish::default(), Wish::default());
    for coding in split(accept_encoding.unwrap_or_default(), b',') {
        let mut parts = split(coding, b';');
        let name = parts.next().unwrap_or_default();
        let q = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q="))).map_or(Some(FULL), weight);
        let Some(q) = q else { continue };
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            gzip.add(q, 0);
        } else if name == "*" {
            any.add(q, 0);
        }
    }
    if gzip.named { gzip.q > 0 } else { any.q > 0 }
}

/// A body that pulls its next chunk when the client has taken the one before; nothing else is kept of the page.
/// `gzip` compresses chunk by chunk at the fastest level.
pub fn body(chunks: impl Iterator<Item = Bytes> + Send + 'static, gzip: bool) -> Body {
    let encoder = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    Body::new(Page { chunks: Some(chunks), encoder })
}

/// How much a client likes a format: the best weight of the ranges that name it, and where that one stood.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    named: bool,
    q: u16,
    place: usize,
}

impl Wish {
    fn add(&mut self, q: u16, place: usize) {
        if !self.named || q > self.q {
            *self = Self { named: true, q, place };
        }
    }
}

/// The parts of a header between separators outside of quotes, trimmed, without empty ones.
fn split(header: &str, separator: u8) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    header
        .split(move |c: char| {
            let was_escaped = mem::replace(&mut escaped, false);
            match c {
                '\\' if quoted && !was_escaped => escaped = true,
                '"' if !was_escaped => quoted = !quoted,
                _ => {}
            }
            !quoted && c == char::from(separator)
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// A weight in thousandths (`qvalue` of RFC 9110 section 12.4.2), `None` if it isn't one.
fn weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(FULL),
        _ => None,
    }
}

/// The streamed page.
struct Page<I> {
    /// `None` after the last chunk.
    chunks: Option<I>,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

// Nothing in here is ever borrowed across a poll.
impl<I> Unpin for Page<I> {}

impl<I: Iterator<Item = Bytes>> Page<I> {
    /// The next piece for the wire, `None` at the end of the page.
    fn next_piece(&mut self) -> std::io::Result<Option<Bytes>> {
        while let Some(chunks) = &mut self.chunks {
            let Some(chunk) = chunks.next() else {
                self.chunks = None;
                let Some(encoder) = self.encoder.take() else { return Ok(None) };
                return encoder.finish().map(|rest| Some(rest.into()));
            };
            if chunk.is_empty() {
                continue;
            }
            let Some(encoder) = &mut self.encoder else { return Ok(Some(chunk)) };
            encoder.write_all(&chunk)?;
            if encoder.get_ref().len() >= GZIP_PIECE {
                return Ok(Some(mem::take(encoder.get_mut()).into()));
            }
        }
        Ok(None)
    }
}

impl<I: Iterator<Item = Bytes>> HttpBody for Page<I> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.next_piece().transpose().map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scrapers_get_what_they_ask_for() {
        let table = [
            // Prometheus before 2.5 and clients that don't know OpenMetrics.
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", Format::Text),
            // Prometheus 2.5 to 2.34: OpenMetrics, but only a version that we don't have.
            ("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Text),
            // Prometheus 2.35 to 2.48.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            // Prometheus 2.40 and on with native histograms.
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
                 application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            // Prometheus 2.49 to 2.55.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            // Prometheus 3.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            // Prometheus 3 with `scrape_protocols: [PrometheusText0.0.4]` and with text preferred.
            ("text/plain;version=0.0.4;q=0.6,*/*;q=0.5", Format::Text),
            ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.4", Format::Text),
            // Prometheus 3 that prefers text 1.0.0, of which we have none: the next best that we do have.
            (
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,\
                 text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
                Format::OpenMetrics,
            ),
            // Browsers, curl, wget.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", Format::Text),
            ("*/*", Format::Text),
            ("application/json", Format::Text),
            ("", Format::Text),
            // A version is optional and may be quoted; names are case-insensitive; ties go to the first.
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.9 , text/plain;q=0.8", Format::OpenMetrics),
            ("application/openmetrics-text,text/plain", Format::OpenMetrics),
            ("text/plain,application/openmetrics-text", Format::Text),
            ("*/*,application/openmetrics-text;q=0.5", Format::Text),
            ("text/plain;q=0.1,*/*,application/openmetrics-text;q=0.5", Format::OpenMetrics),
            // Refused, broken.
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0,text/plain;q=0", Format::Text),
            ("application/openmetrics-text;q=2,text/plain;q=0.5", Format::Text),
            ("x/y;a=\",application/openmetrics-text\",text/plain", Format::Text),
        ];
        for (accept, wanted) in table {
            assert_eq!(format(Some(accept)), wanted, "{accept}");
        }
        assert_eq!(format(None), Format::Text);
        assert!(Format::Text.content_type().starts_with("text/plain; version=0.0.4"));
        assert!(Format::OpenMetrics.content_type().starts_with("application/openmetrics-text; version=1.0.0"));
    }

    #[test]
    fn gzip_is_used_only_where_it_is_allowed() {
        for yes in ["gzip", "GZIP", "deflate, gzip;q=0.5", "x-gzip", "*", "br;q=1, *;q=0.1", "gzip;q=0.001"] {
            assert!(accepts_gzip(Some(yes)), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "gzip; q=0.000, *", "deflate", "*;q=0", "gzipped", "gzip;q=x"] {
            assert!(!accepts_gzip(Some(no)), "{no}");
        }
        assert!(!accepts_gzip(None));
    }

    async fn collect(body: Body) -> Vec<u8> {
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_page_is_the_same_with_and_without_gzip() {
        let chunks: Vec<Bytes> = (0..400_u32)
            .map(|i| match i % 50 {
                0 => Bytes::new(),
                // Text that doesn't compress to nothing, so that several pieces come out.
                _ => (0..40)
                    .map(|j| format!("{:x} ", (i * 40 + j).wrapping_mul(2_654_435_761)))
                    .collect::<String>()
                    .into(),
            })
            .collect();
        let page: Vec<u8> = chunks.concat();
        assert_eq!(collect(body(chunks.clone().into_iter(), false)).await, page);
        let packed = collect(body(chunks.into_iter(), true)).await;
        assert!(packed.len() > 2 * GZIP_PIECE && packed.len() < page.len(), "{}", packed.len());
        let mut unpacked = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, page);
        assert_eq!(collect(body(std::iter::empty(), false)).await, b"");
    }

    #[tokio::test]
    async fn chunks_are_pulled_one_by_one() {
        let pulled = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&pulled);
        let endless = std::iter::repeat_with(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Bytes::from_static(b"ebb")
        });
        let mut body = body(endless, false);
        for taken in 1..=3 {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ebb");
            assert_eq!(pulled.load(Ordering::Relaxed), taken);
        }
    }

    fn range() -> impl Strategy<Value = (String, u16)> {
        let media = prop_oneof![
            Just("application/openmetrics-text"),
            Just("application/openmetrics-text;version=1.0.0"),
            Just("application/openmetrics-text;version=0.0.1"),
            Just("text/plain;version=0.0.4"),
            Just("text/plain;version=1.0.0;escaping=allow-utf-8"),
            Just("text/*"),
            Just("*/*"),
            Just("application/json"),
        ];
        (media.prop_map(str::to_owned), 0..=FULL)
    }

    fn header(ranges: &[(String, u16)]) -> String {
        let one = |(media, q): &(String, u16)| format!("{media};q={}.{:03}", q / FULL, q % FULL);
        ranges.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    proptest! {
        #[test]
        fn any_header_is_answered(accept in any::<String>()) {
            // A client that never wrote the name can't have asked for it.
            if !accept.to_ascii_lowercase().contains("application/openmetrics-text") {
                prop_assert_eq!(format(Some(&accept)), Format::Text);
            }
            if !accept.to_ascii_lowercase().contains("gzip") && !accept.contains('*') {
                prop_assert!(!accepts_gzip(Some(&accept)));
            }
        }

        #[test]
        fn open_metrics_is_never_sent_to_who_refuses_or_does_not_name_it(ranges in prop::collection::vec(range(), 0..8)) {
            let best = ranges.iter().filter(|(m, _)| m.contains("openmetrics") && !m.contains("0.0.1")).map(|r| r.1).max();
            let text = ranges.iter().filter(|(m, _)| m == "text/plain;version=0.0.4").map(|r| r.1).max();
            let got = format(Some(&header(&ranges)));
            if best.unwrap_or(0) == 0 || text > best {
                prop_assert_eq!(got, Format::Text);
            } else if text.is_some_and(|t| Some(t) < best) {
                prop_assert_eq!(got, Format::OpenMetrics);
            }
            // Weights are relative: what nobody can serve changes nothing.
            let mut more = ranges;
            more.push(("image/png".to_owned(), FULL));
            prop_assert_eq!(format(Some(&header(&more))), got);
        }

        #[test]
        fn weights_are_read_to_the_thousandth(q in 0..=FULL) {
            prop_assert_eq!(weight(&format!("{}.{:03}", q / FULL, q % FULL)), Some(q));
        }
    }
}
