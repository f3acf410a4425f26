using System.Text.Json.Serialization;
using CachingApi.Caching;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;

var builder = Host.CreateApplicationBuilder(args);
builder.Services.AddSingleton<BookRepository>();
builder.Services
    .AddCaching(options =>
    {
        options.Redis = builder.Configuration["REDIS"]; // such as 127.0.0.1:6379; without it, caches are in memory
        options.KeyPrefix = "shop";
    })
    .AddCache<Book>("books", cache => cache
        .Configure(options => options.Ttl = TimeSpan.FromMinutes(10))
        .Json(BookJson.Default.Book)
        .Version(book => book.Version)
        .LoadWith<BookRepository>((books, id, cancel) => books.FindAsync(id, cancel)));

using var host = builder.Build();
await host.StartAsync();

var books = host.Services.GetRequiredService<Cache<Book>>();
var first = await books.GetAsync("dune", CancellationToken.None);
Console.WriteLine($"{first.Outcome}: {first.Value}");
var second = await books.GetAsync("dune", CancellationToken.None);
Console.WriteLine($"{second.Outcome}: {second.Value}");

var repository = host.Services.GetRequiredService<BookRepository>();
await books.WriteAsync(
    "dune", WriteStrategy.WriteThrough, (_, cancel) => repository.RenameAsync("dune", "Dune Messiah", cancel), CancellationToken.None);
var third = await books.GetAsync("dune", CancellationToken.None);
Console.WriteLine($"{third.Outcome}: {third.Value}");

await host.StopAsync();

internal sealed record Book(string Id, string Title, long Version);

[JsonSerializable(typeof(Book))]
internal sealed partial class BookJson : JsonSerializerContext;

/// <summary>Stands for a database.</summary>
internal sealed class BookRepository
{
    private readonly Dictionary<string, Book> _rows = new() { ["dune"] = new("dune", "Dune", 1) };

    public Task<Book?> FindAsync(string id, CancellationToken cancel) => Task.FromResult(_rows.GetValueOrDefault(id));

    public Task<WriteResult<Book>> RenameAsync(string id, string title, CancellationToken cancel)
    {
        if (!_rows.TryGetValue(id, out var book))
        {
            return Task.FromResult<WriteResult<Book>>(WriteOutcome.NotFound);
        }

        return Task.FromResult<WriteResult<Book>>(_rows[id] = book with { Title = title, Version = book.Version + 1 });
    }
}
