// Lets a webhook through that LINE has signed, and answers all others with 401.
// Source: LINE Messaging API, "Verify webhook signature": HMAC-SHA256 of the body as it was sent, with the channel
// secret as key, in base64.
import crypto from "crypto";
import fs from "fs";

const SECRET = "/run/secrets/line_channel_secret";

// Always looks at the whole of `expected`: how long it takes tells nothing of how much was right.
function equal(expected, given) {
    let difference = expected.length ^ given.length;
    for (let i = 0; i < expected.length; i++) {
        difference |= expected.charCodeAt(i) ^ given.charCodeAt(i);
    }
    return difference === 0;
}

// The whole body, or undefined when it did not fit into memory, as one in many tiny chunks may not.
function whole_body(r) {
    try {
        return r.requestBuffer || "";
    } catch (error) {
        return undefined;
    }
}

function line_signed(r) {
    const given = r.headersIn["x-line-signature"];
    const body = whole_body(r);
    if (body === undefined) {
        r.return(413);
        return;
    }
    const expected = crypto.createHmac("sha256", fs.readFileSync(SECRET)).update(body).digest("base64");
    if (given && equal(expected, given)) {
        r.internalRedirect(r.variables.signed_location);
    } else {
        r.return(401);
    }
}

export default { line_signed };
