//! Kubernetes' quantities: `500m`, `2`, `1.5Gi`, `1e3`.
//!
//! Source: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// Thousandths of a unit, rounded up as the scheduler does; `None` if it is no quantity, or negative.
pub fn milli(text: &str) -> Option<u64> {
    let text = text.trim().strip_prefix('+').unwrap_or(text.trim());
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (binary, ten) = match unit {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => (0, exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| e.abs() <= 18)?),
    };
    // more digits than these are beyond what the server keeps, too
    let fraction = fraction.get(..fraction.len().min(9))?;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let digits: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let places = i32::try_from(fraction.len()).ok()?;
    let scaled = digits.checked_mul(1_u128 << binary)?;
    let power = 3 + ten - places;
    let by = 10_u128.checked_pow(power.unsigned_abs())?;
    let exact = if power >= 0 { scaled.checked_mul(by)? } else { scaled.div_ceil(by) };
    Some(u64::try_from(exact).unwrap_or(u64::MAX))
}

/// Whole units, rounded up.
pub fn whole(text: &str) -> Option<u64> {
    // thousandths of an exbibyte don't fit; what has no fraction is read as it is
    if let Ok(plain) = text.trim().parse::<u64>() {
        return Some(plain);
    }
    milli(text).map(|m| m.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn quantities_are_read_as_the_server_does() {
        for (text, thousandths) in [
            ("500m", 500),
            ("2", 2000),
            ("0.5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("128Mi", 134_217_728_000),
            ("1e3", 1_000_000),
            ("12E2", 1_200_000),
            ("100u", 1),
            ("1k", 1_000_000),
            (".1", 100),
            ("0", 0),
        ] {
            assert_eq!(milli(text), Some(thousandths), "{text}");
        }
        for text in ["", "m", "1.2.3", "-1", "1X", "1e", "a", "1 Gi"] {
            assert_eq!(milli(text), None, "{text}");
        }
        assert_eq!(
            (whole("16Gi"), whole("1500m"), whole("9000000000000000000")),
            (Some(16 << 30), Some(2), Some(9_000_000_000_000_000_000))
        );
    }
}
