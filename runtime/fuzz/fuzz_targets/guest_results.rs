//! What a guest gives back, whatever it is, is taken or refused, and harms no other message.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    use libfuzzer_sys::arbitrary::{Result, Unstructured};
    use libfuzzer_sys::fuzz_target;
    use millstream::message::Message;
    use millstream::plugin::fuzz::{Outcome, Reason, take};

    fuzz_target!(|bytes: &[u8]| {
        let mut given = Unstructured::new(bytes);
        if let Ok((messages, answers)) = messages(&mut given).and_then(|m| Ok((m, answers(&mut given)?))) {
            take(&messages, answers);
        }
    });

    fn messages(given: &mut Unstructured<'_>) -> Result<Vec<Message>> {
        (0..given.int_in_range(1..=5)?)
            .map(|_| {
                let bytes = |given: &mut Unstructured<'_>| -> Result<Vec<u8>> {
                    Ok(vec![b'x'; given.int_in_range(0..=20)?])
                };
                Ok(Message {
                    payload: if given.ratio(4, 5)? { Some(bytes(given)?) } else { None },
                    key: if given.arbitrary()? { Some(bytes(given)?) } else { None },
                    headers: (0..given.int_in_range(0..=2)?)
                        .map(|_| Ok((bytes(given)?, bytes(given)?)))
                        .collect::<Result<_>>()?,
                    timestamp_ms: 0,
                })
            })
            .collect()
    }

    fn answers(given: &mut Unstructured<'_>) -> Result<Vec<Outcome>> {
        (0..given.int_in_range(1..=3)?).map(|_| answer(given)).collect()
    }

    fn answer(given: &mut Unstructured<'_>) -> Result<Outcome> {
        let short = |given: &mut Unstructured<'_>| -> Result<usize> { given.int_in_range(0..=3) };
        let verdicts: Vec<u8> =
            (0..given.int_in_range(1..=3)?).map(|_| given.int_in_range(0..=5)).collect::<Result<_>>()?;
        let rows = short(given)?;
        let mut emitted = Vec::new();
        for _ in 0..rows {
            emitted.push(given.int_in_range(0..=2)?);
            for _ in 0..2 {
                emitted.extend([address(given)?, number(given)?]);
            }
            emitted.extend([given.int_in_range(0..=3)?, given.int_in_range(0..=2)?, number(given)?]);
        }
        let mut headers = Vec::new();
        for _ in 0..2 * short(given)? {
            headers.extend([address(given)?, number(given)?]);
        }
        // A list that is cut off.
        if given.ratio(1, 20)? {
            emitted.pop();
            headers.pop();
        }
        let times = if given.arbitrary()? { rows } else { short(given)? };
        Ok(Outcome {
            verdicts,
            arena: given.arbitrary()?,
            emitted,
            headers,
            timestamps: (0..times).map(|_| given.arbitrary()).collect::<Result<_>>()?,
            routes: given.arbitrary()?,
            reasons: given
                .arbitrary::<Vec<(u32, String, String)>>()?
                .into_iter()
                .map(|(row, code, text)| Reason { row, code, text })
                .collect(),
        })
    }

    /// What the contract says of an address, and anything else.
    fn address(given: &mut Unstructured<'_>) -> Result<u32> {
        Ok(match given.int_in_range(0..=5)? {
            0 => 0xFFFF_FFFF,
            1 => 0xFFFF_FFFE,
            2 => given.arbitrary()?,
            _ => given.int_in_range(0..=200)?,
        })
    }

    fn number(given: &mut Unstructured<'_>) -> Result<u32> {
        if given.ratio(1, 8)? { given.arbitrary() } else { given.int_in_range(0..=30) }
    }
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
