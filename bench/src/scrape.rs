//! A reader of metrics pages that stays connected, as Prometheus does.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ebbtide_agent::clock;

/// A page should be there long before that.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to an agent.
pub(crate) struct Scraper {
    stream: BufReader<TcpStream>,
    /// The last page.
    pub(crate) page: Vec<u8>,
}

impl Scraper {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(256 * 1024, stream), page: Vec::new() })
    }

    /// Fetches the page; how long it took from the request to the last byte.
    pub(crate) fn get(&mut self) -> io::Result<Duration> {
        let began = clock::now();
        let request = "GET /metrics HTTP/1.1\r\nHost: bench\r\nAccept: text/plain;version=0.0.4\r\n\r\n";
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.page.clear();
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("the agent answered {status:?}")));
        }
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
                Some(("transfer-encoding", value)) => chunked = value == "chunked",
                Some(_) => {}
                None => break,
            }
        }
        if chunked {
            loop {
                let size = u64::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                self.append(size)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.append(length)?;
        }
        Ok(clock::now().since(began))
    }

    /// Series on the last page.
    pub(crate) fn series(&self) -> usize {
        self.page.split(|&b| b == b'\n').filter(|l| !l.is_empty() && !l.starts_with(b"#")).count()
    }

    /// The figure of a series of the last page that has no labels or is given with them.
    pub(crate) fn figure(&self, series: &str) -> Option<f64> {
        let mut lines = self.page.split(|&b| b == b'\n');
        let value = lines.find_map(|l| l.strip_prefix(series.as_bytes())?.strip_prefix(b" "))?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    fn append(&mut self, size: u64) -> io::Result<()> {
        let read = (&mut self.stream).take(size).read_to_end(&mut self.page)?;
        if read as u64 == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if (&mut self.stream).take(16 * 1024).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn pages_in_pieces_and_whole_are_read_on_one_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in [
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n# TYPE a\r\n9\r\n\na{x=\"1\"}\r\n5\r\n 2.5\n\r\n0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\na 1\nb 2\n",
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            ] {
                let mut request = [0; 1024];
                let n = stream.read(&mut request).unwrap();
                assert!(request[..n].starts_with(b"GET /metrics HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut scraper = Scraper::connect(address).unwrap();
        scraper.get().unwrap();
        assert_eq!((scraper.series(), scraper.figure("a{x=\"1\"}"), scraper.figure("b")), (1, Some(2.5), None));
        scraper.get().unwrap();
        assert_eq!((scraper.series(), scraper.figure("a"), scraper.figure("b")), (2, Some(1.0), Some(2.0)));
        assert!(scraper.get().unwrap_err().to_string().contains("503"));
        server.join().unwrap();
    }
}
