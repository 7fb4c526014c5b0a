// Greets whoever calls, by name if the body gives one: {"name":"Ada"}.

const fdk = require('@fnproject/fdk')

// The FDK gives a body that is JSON as what it says, and any other as text.
fdk.handle(function (body) {
  return { message: `Hello ${body?.name ?? 'World'}` }
})
