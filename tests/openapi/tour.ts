// The tour by a client that is generated from the OpenAPI document: create a user, log in, read the user twice. The compiler checks paths,
// parameters, bodies and answers against the document.
import createClient from "openapi-fetch";
import type { operations, paths } from "./client.js";

type User = operations["getUser"]["responses"][200]["content"]["application/json"];

const api = createClient<paths>({ baseUrl: process.argv[2] });

function check(holds: boolean, problem: string): asserts holds {
  if (!holds) {
    throw new Error(problem);
  }
}

const email = `ada-${crypto.randomUUID()}@example.org`;
const password = "a long and unusual sentence";

const created = await api.POST("/users", { body: { email, displayName: "Ada Lovelace", password } });
check(created.response.status === 201, `POST /users: ${created.error?.detail}`);
const user: User = created.data!;
check(created.response.headers.get("Location") === `/users/${user.id}`, "POST /users names the new user's path.");

const session = await api.POST("/sessions", { body: { email, password, transport: "bearer" } });
check(session.response.status === 201, `POST /sessions: ${session.error?.detail}`);
const headers = { Authorization: `Bearer ${session.data!.token}` };

const path = { id: user.id };
const first = await api.GET("/users/{id}", { params: { path }, headers });
const status = (answer: { response: Response }) => answer.response.headers.get("Cache-Status") ?? "";
check(first.data?.email === email, `GET /users/${user.id}: ${first.error?.detail}`);
check(status(first).includes("fwd=uri-miss"), `The first read is a miss, not ${status(first)}`);

const second = await api.GET("/users/{id}", { params: { path }, headers });
check(status(second).includes("; hit;"), `The second read is a hit, not ${status(second)}`);

const etag = second.response.headers.get("ETag")!;
const third = await api.GET("/users/{id}", { params: { path, header: { "If-None-Match": etag } }, headers });
check(third.response.status === 304, `A read with the current ETag is a 304, not ${third.response.status}`);

const changed = await api.PUT("/users/{id}", {
  params: { path, query: { strategy: "write-through" }, header: { "If-Match": etag } },
  body: { email, displayName: "Ada King" },
  headers,
});
check(changed.data?.displayName === "Ada King", `PUT /users/${user.id}: ${changed.error?.detail}`);

const deleted = await api.DELETE("/users/{id}", { params: { path }, body: {}, headers });
check(deleted.response.status === 204, `DELETE /users/${user.id}: ${deleted.error?.detail}`);

console.log(`The generated client has made the tour: ${status(first)}, then ${status(second)}`);
