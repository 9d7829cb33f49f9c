// What a request has to prove: that LINE has signed it, or who its visitor is.
import hashes from "crypto";
import fs from "fs";

const SECRET = "/run/secrets/line_channel_secret";
// Seconds by which the clocks of Cloudflare and of this server may differ.
const LEEWAY = 60;
const EMAIL = /^[!-+\--:=?A-Z\^-~]+@[A-Za-z0-9.-]+$/;

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

// Lets a webhook through that LINE has signed, and answers all others with 401.
// Source: LINE Messaging API, "Verify webhook signature": HMAC-SHA256 of the body as it was sent, with the channel
// secret as key, in base64.
function line_signed(r) {
    const given = r.headersIn["x-line-signature"];
    const body = whole_body(r);
    if (body === undefined) {
        r.return(413);
        return;
    }
    const expected = hashes.createHmac("sha256", fs.readFileSync(SECRET)).update(body).digest("base64");
    if (given && equal(expected, given)) {
        r.internalRedirect(r.variables.signed_location);
    } else {
        r.return(401);
    }
}

// The claims of a JSON Web Token that is signed with one of the keys. Throws otherwise.
// Source: RFC 7515, chapter 5.2; only RS256, the one that Cloudflare Access uses, so that a token cannot choose.
async function verified(token) {
    const parts = token.split(".");
    const head = JSON.parse(Buffer.from(parts[0], "base64url").toString());
    const known = Object.keys(access.keys).includes(head.kid);
    if (parts.length !== 3 || head.alg !== "RS256" || head.crit !== undefined || !known) {
        throw new Error("no token of ours");
    }
    const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
    const jwk = Object.assign({ alg: "RS256" }, access.keys[head.kid]);
    const key = await crypto.subtle.importKey("jwk", jwk, algorithm, false, ["verify"]);
    const signature = Buffer.from(parts[2], "base64url");
    if (!await crypto.subtle.verify(algorithm, key, signature, Buffer.from(parts[0] + "." + parts[1]))) {
        throw new Error("a forged token");
    }
    return JSON.parse(Buffer.from(parts[1], "base64url").toString());
}

// The visitor's e-mail address, or "" without a good token.
// Source: Cloudflare Zero Trust documentation, "Validate JWTs" and "Application token".
async function identity(r) {
    try {
        const claims = await verified(r.headersIn["cf-access-jwt-assertion"] || "");
        const now = Date.now() / 1000;
        const current = claims.exp > now && !(claims.nbf > now + LEEWAY) && !(claims.iat > now + LEEWAY);
        const ours = claims.iss === access.issuer && [].concat(claims.aud).includes(access.audience);
        const named = typeof claims.email === "string" && EMAIL.test(claims.email);
        return current && ours && named ? claims.email : "";
    } catch (error) {
        return "";
    }
}

// Says who the visitor is, and lets in everybody.
async function visitor(r) {
    r.headersOut["X-Identity"] = await identity(r);
    r.return(204);
}

// Says who the visitor is, and lets in nobody without a name.
async function member(r) {
    const email = await identity(r);
    r.headersOut["X-Identity"] = email;
    r.return(email ? 204 : 403);
}

export default { line_signed, member, visitor };
